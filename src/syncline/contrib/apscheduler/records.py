"""Jobs as they stand in the store: one key for each, with the time of its next run."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

__all__ = ["NO_JSON", "JobRecord", "StoredJob"]

NO_JSON: Final = msgspec.Raw(b"null")


class JobRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of a job's key."""

    next_run: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """None: the job is paused."""
    trigger: str = ""
    """The trigger in words. A job that is added again with the same one keeps the time of its next run."""
    job: msgspec.Raw = NO_JSON
    """The state as JSON, unless the job store has a `dumps` of its own."""
    dumped: bytes | None = None
    """What that `dumps` has made."""
    begun_until: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """Runs whose time is not later were begun, or left out, by a scheduler that had the lock."""


class StoredJob(msgspec.Struct, frozen=True):
    """A record, with the job's id and the revision at which it was written."""

    id: str
    revision: int
    record: JobRecord
