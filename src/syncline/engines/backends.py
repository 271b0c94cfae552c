"""The log backend that a URL names."""

from __future__ import annotations

import random

from syncline.engines.backend import LogBackend
from syncline.engines.urls import (
    ETCD,
    FORMS,
    MEMORY,
    POSTGRES,
    REFUSED,
    EtcdUrl,
    PostgresUrl,
    parse_etcd,
    parse_postgres,
)
from syncline.errors import ConfigError

__all__ = ["make_backend"]


def make_backend(url: str, rng: random.Random) -> LogBackend:
    """The backend of a URL. Nothing is connected yet.

    Raises:
        ConfigError: this is no URL of a log backend, or its library is not installed. The text says what to write.
    """
    if url.startswith(MEMORY):
        from syncline.engines.memory import MemoryBackend, shared_log

        name = url.removeprefix(MEMORY).removeprefix("//")
        return MemoryBackend(shared_log(name, rng), name)
    if url.startswith(ETCD):
        return _etcd(parse_etcd(url))
    if url.startswith(POSTGRES):
        return _postgres(parse_postgres(url))
    scheme = url.partition("://")[0]
    why = REFUSED.get(scheme)
    if why is not None:
        raise ConfigError(f"{scheme} is no engine: {why} (docs/engines.md). Use {FORMS}")
    shown = f"'{scheme}://…'" if "://" in url else repr(url)  # the rest may have a password
    raise ConfigError(f"{shown} is no URL of an engine: write {FORMS}")


def _etcd(url: EtcdUrl) -> LogBackend:
    try:
        from syncline.engines.etcd import EtcdBackend
    except ImportError as error:
        raise _no_library("etcd", error) from error
    return EtcdBackend(url)


def _postgres(url: PostgresUrl) -> LogBackend:
    try:
        from syncline.engines.postgres import PostgresBackend
    except ImportError as error:
        raise _no_library("postgres", error) from error
    return PostgresBackend(url)


def _no_library(extra: str, error: ImportError) -> ConfigError:
    return ConfigError(f"this engine needs a library that is missing ({error}): pip install 'syncline[{extra}]'")
