"""A request as the routes see it, and its parameters: parsed once, checked strictly.

Nothing is ignored in silence: an unknown parameter, a repeated one, or a bad value is a 400 that says what is
accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from syncline.server.api.errors import RequestError

if TYPE_CHECKING:
    from syncline.server.auth.principal import Principal

__all__ = [
    "DURATION_PATTERN",
    "MAX_PARAMETERS",
    "AddressOrigin",
    "ClientOrigin",
    "Parameters",
    "Request",
    "decode_percent",
    "encode_percent",
    "parse_duration",
]

MAX_PARAMETERS: Final = 32
"""Parameters in one query; no route takes half as many."""

_WAITING: Final = (b"/lock/lock", b"/election/campaign")
"""Of etcd's gateway: the methods that wait for other clients."""
_LONG_POLL: Final = re.compile(rb"(?:^|&)wait=")
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
DURATION_PATTERN: Final = r"([0-9]{1,10}(?:\.[0-9]{1,9})?)(ms|s|m|h)?"
"""A time as parameters have it, as a regular expression of Python and of JSON Schema."""
_DURATION: Final = re.compile(DURATION_PATTERN)
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_TRUE: Final = frozenset({b"", b"true", b"1"})
_FALSE: Final = frozenset({b"false", b"0"})


class ClientOrigin(Protocol):
    """Where a request comes from."""

    @property
    def address(self) -> str:
        """The address of the other end, without a port; empty if it is not known."""
        ...

    def when_left(self, end: Callable[[], None]) -> Callable[[], None]:
        """Call `end` once if the client leaves. Call what is returned when that is not needed any more."""
        ...


class AddressOrigin:
    """The origin of a request of which nothing but the address is known: nothing tells that its client has left."""

    __slots__ = ("address",)

    def __init__(self, address: str) -> None:
        self.address: str = address

    def when_left(self, end: Callable[[], None]) -> Callable[[], None]:
        """It is never called: what is returned does nothing."""
        del end
        return _nothing


def _nothing() -> None:
    pass


class Request(msgspec.Struct, eq=False, gc=False):
    """One request, whole.

    `method` is upper-case; `path` and `query` are the raw bytes of the target (percent-encoding untouched, no `?`);
    `headers` has lower-case names, repeated fields joined by ", "; requests may share one, so it is only read.
    `argument` is what the route's pattern matched.
    """

    method: str
    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    argument: bytes = b""
    route: str = ""
    """The method and pattern of the route that took it, for metrics."""
    unusual: bool = False
    """Its fields were read one by one, so the router checks them. A header from the cache was checked before."""
    mount: str = ""
    """The path below which another application has mounted the routes: URLs in answers begin with it."""
    origin: ClientOrigin | None = None
    """The connection that it came by."""
    principal: Principal | None = None
    """The user that it is of, while clients need credentials."""

    @property
    def waits(self) -> bool:
        """Whether it waits for a change, or for a lock: a minute, without work. Watches have limits of their own.

        No other route takes the parameter or begins so: it is no way around the limits of requests.
        """
        if self.method == "GET":
            return self.is_long_poll
        return self.path.startswith(b"/v3") and self.path.endswith(_WAITING) and self.method == "POST"

    @property
    def is_long_poll(self) -> bool:
        """Whether it is a read that waits for a change."""
        return self.method == "GET" and b"wait=" in self.query and _LONG_POLL.search(self.query) is not None

    @property
    def address(self) -> str:
        """The address of the client; empty if it is not known."""
        return "" if self.origin is None else self.origin.address


def decode_percent(raw: bytes, what: str) -> bytes:
    """Undo percent-encoding. `what` names the text in the error of a bad escape."""
    if b"%" not in raw:
        return raw
    if bad := _BAD_PERCENT.search(raw):
        near = raw[bad.start() : bad.start() + 3].decode("ascii", "replace")
        raise RequestError(f"{what} has a bad percent-escape {near!r}: write each as % and two hex digits, % as %25")
    return unquote_to_bytes(raw)


def encode_percent(raw: bytes, *, safe: str = "/") -> str:
    """The form of bytes that can stand in a path."""
    return quote_from_bytes(raw, safe)


def parse_duration(text: str) -> float | None:
    """Seconds of `5s`, `250ms`, `1m`, `2.5`; None where it is none of these."""
    found = _DURATION.fullmatch(text)
    return float(found[1]) * _UNIT_S[found[2]] if found else None


class Parameters:
    """The query of one request, each parameter given at most once and known to the route."""

    __slots__ = ("_accepted", "_values")

    def __init__(self, query: bytes, accepted: frozenset[str]) -> None:
        self._accepted = accepted
        self._values: dict[str, bytes] = {}
        if not query:
            return
        pairs = query.split(b"&", MAX_PARAMETERS)
        if len(pairs) > MAX_PARAMETERS:
            raise RequestError(f"more than {MAX_PARAMETERS} parameters")
        for pair in pairs:
            if pair:
                self._take(pair, accepted)

    def _take(self, pair: bytes, accepted: frozenset[str]) -> None:
        raw_name, _, raw_value = pair.replace(b"+", b" ").partition(b"=")
        name = decode_percent(raw_name, "a parameter's name").decode("utf-8", "replace")
        if name not in accepted:
            known = ", ".join(sorted(accepted)) or "none"
            raise RequestError(f"unknown parameter {name!r}; accepted here: {known}")
        if name in self._values:
            raise RequestError(f"the parameter {name!r} is given twice")
        self._values[name] = decode_percent(raw_value, f"the parameter {name!r}")

    @staticmethod
    def name_of(raw: str) -> str:
        """The name that a raw, percent-encoded one stands for."""
        return decode_percent(raw.replace("+", " ").encode(), "a parameter's name").decode("utf-8", "replace")

    def __contains__(self, name: str) -> bool:
        return self.octets(name) is not None

    def octets(self, name: str) -> bytes | None:
        """The decoded bytes, or None where it is not given."""
        assert name in self._accepted, f"{name} is read and not declared"
        return self._values.get(name)

    def text(self, name: str, default: str) -> str:
        """A text parameter."""
        raw = self.octets(name)
        if raw is None:
            return default
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise RequestError(f"the parameter {name!r} is not UTF-8") from None

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of `choices`; the first is the default."""
        value = self.text(name, choices[0])
        if value not in choices:
            raise RequestError(f"{name}={value!r}: accepted are {', '.join(map(repr, choices))}")
        return value

    def boolean(self, name: str, *, others: str = "") -> bool:
        """`true`, `1` or nothing after the name; `false` or `0`; absent is false. `others`: what else the caller takes,
        for the refusal."""
        raw = self.octets(name)
        if raw is None or raw in _FALSE:
            return False
        if raw in _TRUE:
            return True
        raise RequestError(f"{name}={raw.decode('utf-8', 'replace')!r}: accepted are true and false{others}")

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        """A whole number between `low` and `high`."""
        text = self.text(name, str(default))
        if text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high:
            return int(text)
        raise RequestError(f"{name}={text!r}: accepted is a whole number from {low} to {high}")

    def duration_s(self, name: str, default: float, *, low: float = 0.0, high: float) -> float:
        """Seconds, above zero, and from `low` to `high`."""
        raw = self.octets(name)
        if raw is None:
            return default
        seconds = parse_duration(raw.decode("utf-8", "replace"))
        if seconds is None or not low <= seconds <= high or not seconds:
            shown, least = raw.decode("utf-8", "replace"), f"from {low:g}s, " if low else ""
            raise RequestError(f"{name}={shown!r}: accepted is a time such as 5s or 250ms, {least}at most {high:.10g}s")
        return seconds
