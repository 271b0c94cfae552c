"""Django's cache in the store, with locks.

    CACHES = {"default": {"BACKEND": "syncline.contrib.django.Cache", "LOCATION": "http://10.0.0.1:8080"}}

See docs/contrib/django.md.
"""

from __future__ import annotations

from syncline.contrib.extras import missing_extra

try:
    from syncline.contrib.django.cache import Cache
    from syncline.contrib.django.values import JsonSerializer
except ModuleNotFoundError as _error:
    raise missing_extra("syncline.contrib.django", "django", _error) from _error

__all__ = ["Cache", "JsonSerializer"]
