"""Shared by the client commands: their options, the client that they use, and how errors end them."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import click
import msgspec
from click.core import ParameterSource

from syncline.cli.credentials import Credential, find_credential
from syncline.cli.exits import failure_of
from syncline.client import DEFAULT_TIMEOUT_S, AsyncClient
from syncline.errors import OperationError, SynclineError, Unauthenticated, Unreachable

__all__ = [
    "DEFAULT_ENDPOINTS",
    "ENDPOINTS_VARIABLE",
    "TTL",
    "WAIT",
    "Context",
    "Duration",
    "client_command",
    "key_bytes",
    "make_client",
    "parse_duration_s",
    "with_endpoint",
]

DEFAULT_ENDPOINTS: Final = "http://127.0.0.1:8080,http://127.0.0.1:8081,http://127.0.0.1:8082"
"""Where `syncline up` listens by default."""

ENDPOINTS_VARIABLE: Final = "SYNCLINE_ENDPOINTS"
CA_VARIABLE: Final = "SYNCLINE_CACERT"
CERT_VARIABLE: Final = "SYNCLINE_CERT"
KEY_VARIABLE: Final = "SYNCLINE_KEY_FILE"


if TYPE_CHECKING:
    _SecondsType = click.ParamType[float]
else:
    _SecondsType = click.ParamType  # generic only in newer releases of click


class Duration(_SecondsType):
    """`5s`, `250ms`, `1m`, or a bare number of seconds; gives seconds."""

    name = "time"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        seconds = parse_duration_s(value)
        if seconds is None or seconds >= LONGEST_S:
            self.fail(f"{value!r} is not a time above 0: write 5s, 250ms or 1m", param, ctx)
        return seconds


class _Ttl(Duration):
    """The same, of any length: the client knows the limits of leases."""

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = value if isinstance(value, float) else parse_duration_s(value)
        if seconds is None:
            self.fail(f"{value!r} is not a time above 0: write 30s, 5m or 2h", param, ctx)
        return seconds


class _WaitTime(Duration):
    """The same, or 0 for no wait at all."""

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return 0.0 if value in {"0", "0s", 0.0} else super().convert(value, param, ctx)


TTL: Final = _Ttl()
WAIT: Final = _WaitTime()


def parse_duration_s(text: str) -> float | None:
    """The seconds of `5s`, `250ms`, `1m` or a bare number; None if it is none of these, or not above 0."""
    number = text.rstrip("mshMSH")
    try:
        seconds = float(number) * _UNITS_S[text[len(number) :].lower() or "s"]
    except (ValueError, KeyError):
        return None
    return seconds if 0 < seconds < math.inf else None


_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S: Final = 86_400.0

_OPTIONS: Final = (
    click.option(
        "--endpoints",
        envvar=ENDPOINTS_VARIABLE,
        metavar="URL,…",
        help=f"Any of the cluster's servers (or {ENDPOINTS_VARIABLE}).  [default: ports 8080-8082 of this machine]",
    ),
    click.option("--timeout", "timeout_s", type=Duration(), metavar="TIME", help="For the operation: 5s, 250ms, 1m."),
    click.option("--cacert", envvar=CA_VARIABLE, metavar="FILE", help="Certificate authority to trust for https."),
    click.option("--cert", envvar=CERT_VARIABLE, metavar="FILE", help="Certificate to show, if servers ask for one."),
    click.option("--key-file", envvar=KEY_VARIABLE, metavar="FILE", help="Its private key."),
    click.option("--user", metavar="NAME", help="Show this user's password (or SYNCLINE_USER); it is asked for."),
    click.option("--token-file", metavar="FILE", help="Show the token in this file (or SYNCLINE_TOKEN_FILE)."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


class Context(msgspec.Struct, frozen=True):
    """The options that every client command has. `endpoints_given`: the user named endpoints."""

    endpoints: str
    endpoints_given: bool
    timeout_s: float | None
    as_json: bool
    ca_file: str | None
    certificate_file: str | None = None
    key_file: str | None = None
    credential: Credential = Credential()
    trusts_members: bool = False
    """The credential is shown to each address that the cluster announces (`announced.py`)."""


def client_command(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a click callback of a coroutine function whose first parameter is the `Context`, and add the common
    options.
    """

    @functools.wraps(function)
    def command(
        *,
        endpoints: str | None,
        timeout_s: float | None,
        cacert: str | None,
        cert: str | None,
        key_file: str | None,
        user: str | None,
        token_file: str | None,
        as_json: bool,
        **own: object,
    ) -> None:
        endpoints = _chosen_endpoints(endpoints)
        context = Context(
            endpoints=endpoints or DEFAULT_ENDPOINTS,
            endpoints_given=endpoints is not None,
            timeout_s=timeout_s,
            as_json=as_json,
            ca_file=cacert,
            certificate_file=cert,
            key_file=key_file,
            trusts_members=bool(own.pop("trust_members", False)),
        )
        try:
            credential = find_credential(user, token_file)
            context = msgspec.structs.replace(context, credential=credential)
            asyncio.run(_completed(function(context, **own)))
        except SynclineError as error:
            raise failure_of(error, as_json=as_json, more=_advice(error, context)) from error

    for option in reversed(_OPTIONS):
        option(command)
    return command


def _chosen_endpoints(own: str | None) -> str | None:
    """The endpoints of the command line (after the command or before it), else of the environment."""
    context = click.get_current_context()
    before = context.find_root().params.get("endpoints")
    from_environment = context.get_parameter_source("endpoints") is ParameterSource.ENVIRONMENT
    return before or own if from_environment else own or before


def _advice(error: SynclineError, context: Context) -> str:
    """What to do if nothing runs at the default endpoints: most likely there is no cluster yet."""
    if isinstance(error, Unauthenticated) and context.credential == Credential():
        return ". Give --user NAME, or --token-file FILE (or SYNCLINE_TOKEN_FILE)"
    if isinstance(error, Unreachable) and not context.endpoints_given and _names_ours(error, context):
        return ". Start a cluster on this machine with 'syncline up', or name one with --endpoints"
    return ""


def _names_ours(error: SynclineError, context: Context) -> bool:
    """Whether the error is of the user's cluster, and not of the etcd that keys are copied from or to."""
    return any(url.strip() in str(error) for url in context.endpoints.split(","))


async def _completed(work: Awaitable[None]) -> None:
    await work


def make_client(
    context: Context,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    patient: bool = False,
    on_retry: Callable[[OperationError], None] | None = None,
) -> AsyncClient:
    """Make a client for the user's options; `timeout_s` counts if they name no time.

    `patient`: wait for servers that refuse the connection until the deadline, instead of failing at once. `on_retry` is
    told why, each time before another attempt is made.
    """
    tls = None
    if context.ca_file is not None or context.certificate_file is not None or context.key_file is not None:
        from syncline.client.tls import trusting_context

        tls = trusting_context(
            context.ca_file,
            context.certificate_file,
            context.key_file,
            settings=("--cacert", "--cert", "--key-file"),
        )
    shown = context.credential
    return AsyncClient(
        context.endpoints,
        timeout=context.timeout_s or timeout_s,
        retry_refused=patient,
        retry_writes=False,
        on_retry=on_retry,
        tls=tls,
        user=shown.user,
        password=shown.password,
        token=shown.token,
    )


def with_endpoint(context: Context, url: str) -> Context:
    """The same options for one server alone."""
    return msgspec.structs.replace(context, endpoints=url)


def key_bytes(text: str) -> bytes:
    """A key from the command line: the very bytes that the shell passed."""
    key = text.encode("utf-8", "surrogateescape")
    if not key:
        raise click.UsageError("the key must not be empty")
    return key
