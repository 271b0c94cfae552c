"""Which of the addresses that a cluster announces are shown the user's credential.

Commands that ask each member find the members by those that the user named. A member announces its address itself. So a
member that is hostile, or that announces a wrong address, could have the credential sent anywhere. It is shown to:

- the endpoints, and other ports of their hosts;
- for `repair` and `recover`, the same of the addresses that the data directory knows;
- any address over https, if `--cacert` names the authority that its certificate must be of;
- any address with `--trust-members`.

All others are asked without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import click
import msgspec

from syncline.cli.common import Context, with_endpoint
from syncline.cli.credentials import Credential
from syncline.client.endpoints import MAX_ENDPOINTS, parse_endpoint, parse_endpoints
from syncline.errors import ConfigError, OperationError, Unauthenticated

__all__ = ["asks_members", "for_member", "is_trusted", "trusting", "withheld"]

TRUST_VARIABLE: Final = "SYNCLINE_TRUST_MEMBERS"

asks_members: Final = click.option(
    "--trust-members",
    is_flag=True,
    envvar=TRUST_VARIABLE,
    help=f"Show the credential to each address that the cluster announces (or {TRUST_VARIABLE}).",
)
"""The option of a command that asks each member. The command gives it to its `Context` (`trusts_members`)."""


def for_member(context: Context, url: str) -> Context:
    """The options for one server alone, without the credential if the server must not see it."""
    own = with_endpoint(context, url)
    return own if is_trusted(context, url) else msgspec.structs.replace(own, credential=Credential())


def trusting(context: Context, endpoints: str, known: Sequence[str]) -> Context:
    """The options with these endpoints, and with others that a data directory knows: all of them see the credential."""
    urls = parse_endpoints(endpoints)
    for url in known:
        with contextlib.suppress(ConfigError):  # a member has announced it, and it is of no use
            urls.append(parse_endpoint(url))
    return with_endpoint(context, ",".join(urls[:MAX_ENDPOINTS]))


def withheld(context: Context, url: str, error: OperationError) -> OperationError:
    """The error of a server; if it needs a credential that was not shown to it, the text says why, and what to do."""
    if not isinstance(error, Unauthenticated) or is_trusted(context, url):
        return error
    return Unauthenticated(
        f"{url} is an address that the cluster announces, so the credential was not sent to it. Name it with"
        " --endpoints, use https with --cacert, or give --trust-members"
    )


def is_trusted(context: Context, url: str) -> bool:
    """Whether the credential may be shown to a server, or there is none."""
    if context.trusts_members or context.credential == Credential():
        return True
    asked = urlsplit(parse_endpoint(url))
    if asked.scheme == "https" and context.ca_file is not None:
        return True
    named = [urlsplit(one) for one in parse_endpoints(context.endpoints)]
    return any(asked.hostname == one.hostname and asked.scheme in (one.scheme, "https") for one in named)
