"""The settings of a Celery application that name the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from syncline.client import Client
from syncline.contrib.connection import client_of
from syncline.errors import ConfigError

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["client_for", "number_setting"]


def client_for(app: Celery) -> Client:
    """The client for `syncline_url` and `syncline_options`. Raises `ConfigError`."""
    options = app.conf.get("syncline_options") or {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"Celery's syncline_options must be a dict, not {type(options).__name__}")
    return client_of(app.conf.get("syncline_url"), options, where="Celery's syncline_options")


def number_setting(app: Celery, name: str, default: float) -> float:
    """A setting that is a number of seconds. Raises `ConfigError`."""
    value = app.conf.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"Celery's setting {name} is {value!r}: it must be a number of seconds")
    return float(value)
