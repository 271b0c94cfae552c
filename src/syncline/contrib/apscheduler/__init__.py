"""A job store for APScheduler 3: jobs survive their host, and one scheduler of several runs them.

    scheduler = BackgroundScheduler(jobstores={"default": JobStore("http://10.0.0.1:8080")})

See docs/contrib/apscheduler.md.
"""

from __future__ import annotations

from syncline.contrib.extras import missing_extra

try:
    from syncline.contrib.apscheduler.store import JobStore
except ModuleNotFoundError as _error:
    raise missing_extra("syncline.contrib.apscheduler", "apscheduler", _error) from _error

__all__ = ["JobStore"]
