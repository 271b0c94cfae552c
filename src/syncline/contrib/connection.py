"""The client of an integration, made from the framework's settings and the environment."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from syncline.client import DEFAULT_TIMEOUT_S, Client
from syncline.client.tls import trusting_context
from syncline.errors import ConfigError

__all__ = ["ENDPOINTS_VARIABLE", "checked_name", "client_of"]

ENDPOINTS_VARIABLE: Final = "SYNCLINE_ENDPOINTS"
TOKEN_FILE_VARIABLE: Final = "SYNCLINE_TOKEN_FILE"  # noqa: S105 - the name of a variable
TLS_VARIABLES: Final = ("SYNCLINE_CACERT", "SYNCLINE_CERT", "SYNCLINE_KEY_FILE")
"""Paths of files for https, as the command line takes them, too."""

TOKEN_BYTES: Final = 4096
"""A file that is larger is no token's: it is not read."""

DEFAULT_ENDPOINTS: Final = "http://127.0.0.1:8080,http://127.0.0.1:8081,http://127.0.0.1:8082"
"""Where `syncline up` listens by default."""

_OPTIONS: Final = ("timeout", "user", "password", "token", "token_file", "cacert", "cert", "key_file")


def client_of(
    endpoints: str | Iterable[str] | None, options: Mapping[str, object] | None = None, *, where: str
) -> Client:
    """Make the blocking client for an integration. It may be made before a server forks its workers.

    `endpoints`: URLs, separated by commas or as a list; nothing: those of `SYNCLINE_ENDPOINTS`, else those of
    `syncline up`. `options`: `timeout` (seconds), `user` and `password`, or `token` or `token_file` (or
    `SYNCLINE_TOKEN_FILE`), and for https `cacert`, `cert`, `key_file` (without any of them those of `SYNCLINE_CACERT`,
    `SYNCLINE_CERT`, `SYNCLINE_KEY_FILE`). `where` they stand, for errors.

    Raises:
        ConfigError: there is no such option, or a value can't be used.
    """
    given = dict(options or {})
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise ConfigError(f"{where}: there is no option {unknown[0]!r}; accepted are {', '.join(_OPTIONS)}")
    texts = {name: _text(given.get(name), name, where) for name in _OPTIONS if name != "timeout"}
    timeout = given.get("timeout", DEFAULT_TIMEOUT_S)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ConfigError(f"{where}: timeout is {timeout!r}: it must be a number of seconds")
    credential = texts["token"] or texts["user"]
    token_file = texts["token_file"] or (None if credential else os.environ.get(TOKEN_FILE_VARIABLE))
    named = list(endpoints) if isinstance(endpoints, Iterator) else endpoints
    named = named or os.environ.get(ENDPOINTS_VARIABLE) or DEFAULT_ENDPOINTS
    return Client(
        named,
        timeout=timeout,
        tls=_tls(texts, named),
        user=texts["user"],
        password=texts["password"],
        token=texts["token"] or (_token_in(token_file, where) if token_file else None),
    )


def checked_name(value: object, what: str) -> str:
    """A name below which an integration keeps its keys. With a `/` its keys could be those of another name.

    Raises:
        ConfigError: it is no text, is empty, or has a `/`. `what` it is, for the error.
    """
    if not isinstance(value, str) or not value or "/" in value:
        raise ConfigError(f"{what} is {value!r}: it must be text without /")
    return value


def _text(value: object, name: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    raise ConfigError(f"{where}: {name} must be text, not {type(value).__name__}")


def _tls(texts: Mapping[str, str | None], endpoints: object) -> ssl.SSLContext | None:
    files = texts["cacert"], texts["cert"], texts["key_file"]
    if not any(files) and "https://" in str(endpoints):
        cacert, cert, key_file = (os.environ.get(name) for name in TLS_VARIABLES)
        files = cacert, cert, key_file
    return trusting_context(*files, settings=("cacert", "cert", "key_file")) if any(files) else None


def _token_in(path: str, where: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(TOKEN_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: the token file {path} can't be read: {error}") from error
    token = text.strip()
    if not token or len(text) > TOKEN_BYTES:
        raise ConfigError(f"{where}: the token file {path} holds no token")
    return token
