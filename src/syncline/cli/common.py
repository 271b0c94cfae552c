"""What the client commands share: their options, the client that they talk through, and how errors end them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import click
import msgspec
from click.core import ParameterSource

from syncline.cli.exits import failure_of
from syncline.client import DEFAULT_TIMEOUT_S, AsyncClient
from syncline.errors import ConfigError, SynclineError, Unreachable

__all__ = ["DEFAULT_ENDPOINTS", "Context", "Duration", "client_command", "key_bytes", "make_client", "with_endpoint"]

DEFAULT_ENDPOINTS: Final = "http://127.0.0.1:8080,http://127.0.0.1:8081,http://127.0.0.1:8082"
"""Where `syncline up` listens when nothing else is said."""

ENDPOINTS_VARIABLE: Final = "SYNCLINE_ENDPOINTS"
CA_VARIABLE: Final = "SYNCLINE_CACERT"


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
        number = value.rstrip("mshMSH")
        try:
            seconds = float(number) * _UNITS_S[value[len(number) :].lower() or "s"]
        except (ValueError, KeyError):
            seconds = -1.0
        if not 0 < seconds < LONGEST_S:
            self.fail(f"{value!r} is not a time: write 5s, 250ms or 1m", param, ctx)
        return seconds


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
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


class Context(msgspec.Struct, frozen=True):
    """What the user said that every client command understands. `endpoints_given`: not just the default."""

    endpoints: str
    endpoints_given: bool
    timeout_s: float | None
    as_json: bool
    ca_file: str | None


def client_command(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a click callback of a coroutine function whose first parameter is the `Context`, and add its options."""

    @functools.wraps(function)
    def command(
        *, endpoints: str | None, timeout_s: float | None, cacert: str | None, as_json: bool, **own: object
    ) -> None:
        endpoints = _chosen_endpoints(endpoints)
        context = Context(
            endpoints=endpoints or DEFAULT_ENDPOINTS,
            endpoints_given=endpoints is not None,
            timeout_s=timeout_s,
            as_json=as_json,
            ca_file=cacert,
        )
        try:
            asyncio.run(_completed(function(context, **own)))
        except SynclineError as error:
            raise failure_of(error, as_json=as_json, more=_advice(error, context)) from error

    for option in reversed(_OPTIONS):
        option(command)
    return command


def _chosen_endpoints(own: str | None) -> str | None:
    """What the command line says, after the command or before it; else the environment."""
    context = click.get_current_context()
    before = context.find_root().params.get("endpoints")
    from_environment = context.get_parameter_source("endpoints") is ParameterSource.ENVIRONMENT
    return before or own if from_environment else own or before


def _advice(error: SynclineError, context: Context) -> str:
    """What to do if nothing runs at the default endpoints: most likely there is no cluster yet."""
    if isinstance(error, Unreachable) and not context.endpoints_given:
        return ". Start a cluster on this machine with 'syncline up', or name one with --endpoints"
    return ""


async def _completed(work: Awaitable[None]) -> None:
    await work


def make_client(context: Context, *, timeout_s: float = DEFAULT_TIMEOUT_S, patient: bool = False) -> AsyncClient:
    """The client that the user's options ask for; `timeout_s` where they name no time.

    `patient`: wait for servers that refuse the connection until the deadline, instead of failing at once.
    """
    tls = None
    if context.ca_file is not None:
        import ssl

        try:
            tls = ssl.create_default_context(cafile=context.ca_file)
        except OSError as error:
            raise ConfigError(f"--cacert {context.ca_file}: {error.strerror or error}") from error
    return AsyncClient(context.endpoints, timeout=context.timeout_s or timeout_s, retry_refused=patient, tls=tls)


def with_endpoint(context: Context, url: str) -> Context:
    """The same wishes for one server alone."""
    return msgspec.structs.replace(context, endpoints=url)


def key_bytes(text: str) -> bytes:
    """A key from the command line: the very bytes that the shell passed."""
    key = text.encode("utf-8", "surrogateescape")
    if not key:
        raise click.UsageError("the key must not be empty")
    return key
