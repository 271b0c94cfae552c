"""Times to live and ids of leases in requests."""

from __future__ import annotations

import re
from typing import Final

from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Parameter, Schema
from syncline.server.http.request import DURATION_PATTERN, Parameters, parse_duration

__all__ = ["LEASE", "MAX_TTL_S", "MIN_TTL_S", "TTL", "LeaseId", "Ttl", "parse_lease", "parse_ttl_ms", "seconds"]

MIN_TTL_S: Final = 2.0
"""Below it a lease could end before its keep-alive has crossed a slow network and an election."""
MAX_TTL_S: Final = 9_000_000_000.0
"""etcd's limit: 285 years."""

_LEASE: Final = re.compile(r"[0-9a-f]{16}")


def parse_ttl_ms(text: str, where: str) -> int:
    """The milliseconds of a `ttl`, such as `30s`. Raises `RequestError`; `where` names the place."""
    seconds = parse_duration(text)
    if seconds is None or not MIN_TTL_S <= seconds <= MAX_TTL_S:
        raise RequestError(
            f"{where}: 'ttl' is {text[:40]!r}; accepted is a time such as 30s or 5m, from {MIN_TTL_S:g}s to"
            f" {MAX_TTL_S:.0f}s"
        )
    return round(seconds * 1000)


def parse_lease(text: str, where: str, *, field: str = "lease", none_ok: bool = False) -> int:
    """The id of a lease, which is 16 hexadecimal digits. Raises `RequestError`; `where` and `field` name the place.

    `none_ok`: 0, for no lease, is one too.
    """
    least = 0 if none_ok else 1
    if _LEASE.fullmatch(text) is None or not least <= int(text, 16) < 2**63:
        raise RequestError(
            f"{where}: '{field}' is {text[:40]!r}; expected the 16 hexadecimal digits of a lease's id, in lower case,"
            f" from {least:016x} to {2**63 - 1:016x}"
        )
    return int(text, 16)


def seconds(milliseconds: int) -> float:
    """Milliseconds as seconds; a whole number of them without a fraction."""
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


class Ttl(Parameter, frozen=True, kw_only=True):
    """A time to live."""

    def of(self, parameters: Parameters) -> int:
        """Milliseconds; 0 if it is not given."""
        return parse_ttl_ms(parameters.text(self.name, ""), "the parameter") if self.name in parameters else 0

    def schema(self) -> Schema:
        return {
            "type": "string",
            "pattern": f"^{DURATION_PATTERN}$",
            "description": f"A time such as 30s or 5m, from {MIN_TTL_S:g}s to {MAX_TTL_S:.0f}s.",
        }


class LeaseId(Parameter, frozen=True, kw_only=True):
    """The id of a lease."""

    def of(self, parameters: Parameters) -> int:
        """The id; 0 if it is not given."""
        return parse_lease(parameters.text(self.name, ""), "the parameter") if self.name in parameters else 0

    def schema(self) -> Schema:
        return {"type": "string", "pattern": "^[0-9a-f]{16}$"}


TTL: Final = Ttl("ttl", "The key gets a lease of its own, with this time to live.")
LEASE: Final = LeaseId("lease", "The lease of which the key becomes one.")
