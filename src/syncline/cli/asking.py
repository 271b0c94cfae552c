"""One GET to one server, as it is: for commands that look at what a node shows to operators."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from syncline.cli.announced import for_member
from syncline.cli.common import Context
from syncline.client.connection import BadAnswer, ClientResponse, ConnectionLost
from syncline.client.credentials import authorization
from syncline.client.endpoints import ConnectFailed, Endpoint, parse_endpoint
from syncline.client.tls import trusting_context
from syncline.errors import ConfigError, Unreachable
from syncline.platform.network import TcpNetwork
from syncline.platform.tls import TlsContext, new_context
from syncline.version import __version__

__all__ = ["ASK_TIMEOUT_S", "ask", "client_tls", "request_head"]

ASK_TIMEOUT_S: Final = 5.0


def client_tls(context: Context) -> ssl.SSLContext:
    """The TLS context of the user's options. Raises `ConfigError`."""
    files = (context.ca_file, context.certificate_file, context.key_file)
    return trusting_context(*files, settings=("--cacert", "--cert", "--key-file"))


def request_head(context: Context, host: str, method: str, path: str, body_bytes: int = 0) -> bytes:
    """The header of a request, with the user's credential. Raises `ConfigError`."""
    shown = context.credential
    fields = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"User-Agent: syncline/{__version__}"]
    if field := authorization(shown.user, shown.password, shown.token):
        fields.append(f"Authorization: {field}")
    if method != "GET":
        fields.append(f"Content-Length: {body_bytes}")
    return "\r\n".join([*fields, "", ""]).encode()


async def ask(context: Context, url: str, path: str, *, timeout_s: float = ASK_TIMEOUT_S) -> ClientResponse:
    """Ask one server, whatever the status of its answer. Raises `Unreachable` if there is none.

    An address that must not see the credential is asked without it (`announced.py`).
    """
    try:
        url = parse_endpoint(url)  # a member announces what it likes
    except ConfigError as error:
        raise Unreachable(str(error)) from error
    tls: TlsContext | None = None
    if url.startswith("https://"):
        tls = new_context(client_tls(context), server_side=False)
    endpoint = Endpoint(url, network=TcpNetwork(), tls=tls)
    head = request_head(for_member(context, url), endpoint.host_header, "GET", endpoint.base_path + path)
    try:
        async with asyncio.timeout(timeout_s):
            return await endpoint.send(await endpoint.connect(), head, b"")
    except (ConnectFailed, ConnectionLost, BadAnswer) as error:
        raise Unreachable(f"can't reach {url}: {error}") from error
    except TimeoutError:
        raise Unreachable(f"{url} has not answered within {timeout_s:g} s") from None
    finally:
        await endpoint.close()
