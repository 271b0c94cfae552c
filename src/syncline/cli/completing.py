"""What can stand at a place of a command line: commands, options, and keys of the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from click.shell_completion import CompletionItem

from syncline.cli.credentials import TOKEN_FILE_VARIABLE, Credential, find_credential
from syncline.errors import SynclineError

if TYPE_CHECKING:
    import click

__all__ = ["complete_keys"]

MOST_KEYS: Final = 100
"""More are no help to a reader."""

TIMEOUT_S: Final = 1.0
"""A user waits for it, after each press of the key."""


def complete_keys(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys that begin with what was typed, up to the next `/`. Without an answer within a second there are none.

    Nothing is asked at the terminal: a user whose password stands in no file gets no keys.
    """
    try:
        keys = asyncio.run(_keys(ctx, incomplete))
    except (SynclineError, TimeoutError):
        return []
    return [CompletionItem(key) for key in keys]


async def _keys(ctx: click.Context, incomplete: str) -> list[str]:
    from syncline.cli.common import DEFAULT_ENDPOINTS, ENDPOINTS_VARIABLE, Context, make_client

    before, own = ctx.find_root().params.get("endpoints"), ctx.params.get("endpoints")
    endpoints = own or before or os.environ.get(ENDPOINTS_VARIABLE) or DEFAULT_ENDPOINTS
    token_file = ctx.params.get("token_file") or os.environ.get(TOKEN_FILE_VARIABLE)
    context = Context(
        endpoints=endpoints,
        endpoints_given=True,
        timeout_s=TIMEOUT_S,
        as_json=False,
        ca_file=ctx.params.get("cacert") or os.environ.get("SYNCLINE_CACERT"),
        certificate_file=ctx.params.get("cert") or os.environ.get("SYNCLINE_CERT"),
        key_file=ctx.params.get("key_file") or os.environ.get("SYNCLINE_KEY_FILE"),
        credential=find_credential(None, token_file) if token_file else Credential(),
    )
    found: dict[str, None] = {}
    async with asyncio.timeout(TIMEOUT_S), make_client(context) as client:
        after: str | None = None
        while len(found) < MOST_KEYS:
            page = await client.list(incomplete, after=after, limit=1000, consistency="stale")
            for item in page.items:
                with contextlib.suppress(UnicodeDecodeError):  # no text: it can't be typed
                    _add(found, item.key.decode(), incomplete)
            after = page.next
            if after is None:
                break
    return list(found)[:MOST_KEYS]


def _add(found: dict[str, None], key: str, incomplete: str) -> None:
    """Add the key up to its next slash, as a shell completes folders, unless the line could not hold it."""
    if not key.isprintable() or " " in key:
        return
    end = key.find("/", len(incomplete))
    found[key if end < 0 else key[: end + 1]] = None
