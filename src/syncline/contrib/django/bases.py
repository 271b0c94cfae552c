"""Django's class that ours extends, with types: Django has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["CacheBase"]

if TYPE_CHECKING:

    class CacheBase:
        """`django.core.cache.backends.base.BaseCache`, as far as it is used here."""

        default_timeout: float | None

        def __init__(self, params: dict[str, object]) -> None: ...
        def make_key(self, key: str, version: int | None = None) -> str: ...
        def make_and_validate_key(self, key: str, version: int | None = None) -> str: ...

else:
    from django.core.cache.backends.base import BaseCache as CacheBase
