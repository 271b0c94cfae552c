"""Parameters of reads: how fresh the answer must be. `kv/serving/reads.py` carries them out."""

from __future__ import annotations

from typing import Final

from syncline.kv.serving.reads import DEFAULT_TIMEOUT_S, MAX_REVISION, MAX_STALE_S, ReadPlan
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Choice, Integer, Query, Seconds
from syncline.server.http.request import Parameters

__all__ = ["MAX_TIMEOUT_S", "READ_QUERY", "TIMEOUT", "read_plan"]

MAX_TIMEOUT_S: Final = 60.0

TIMEOUT: Final = Seconds("timeout", "The deadline of the request.", default_s=DEFAULT_TIMEOUT_S, high_s=MAX_TIMEOUT_S)
CONSISTENCY: Final = Choice("consistency", "How fresh the answer must be.", choices=("linearizable", "leader", "stale"))
MAX_STALE: Final = Seconds("max_stale", "How old the state may be; with `consistency=stale`.", high_s=MAX_STALE_S)
PAST_REVISION: Final = Integer("revision", "The past revision to read.", low=1, high=MAX_REVISION)
READ_QUERY: Final = Query(CONSISTENCY, MAX_STALE, PAST_REVISION, TIMEOUT)
"""The parameters of each route that reads the store."""


def read_plan(parameters: Parameters) -> ReadPlan:
    """The consistency that a request's parameters ask for. Raises `RequestError`."""
    level, max_stale_s = CONSISTENCY.of(parameters), MAX_STALE.given(parameters)
    if max_stale_s is not None and level != "stale":
        raise RequestError("max_stale is for consistency=stale")
    return ReadPlan(level, TIMEOUT.of(parameters), max_stale_s, PAST_REVISION.given(parameters) or 0)
