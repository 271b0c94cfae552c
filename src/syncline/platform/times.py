"""Times that come again: by an interval, or by a cron expression. Durations as people write them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, tzinfo
from typing import Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from syncline.errors import ConfigError
from syncline.platform.cron import CronTimes

__all__ = [
    "Interval",
    "Times",
    "checked_timeout_s",
    "interval_s",
    "parse_time",
    "parse_times",
    "time_text",
    "times_between",
]

UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LONGEST_S: Final = 366 * 86400
EXPECTED: Final = 'expected a duration such as "90s", "5m" or "1h30m", or a cron expression such as "30 2 * * mon-fri"'

_PART: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")


class Times(Protocol):
    """Times in whole seconds since 1970, UTC."""

    def next_s(self, after_s: float) -> int:
        """The first time that is later than this."""
        ...


class Interval:
    """Every so many seconds, counted from 1970: all processes know the same times."""

    def __init__(self, every_s: int) -> None:
        self.every_s = every_s

    def next_s(self, after_s: float) -> int:
        """The first time that is later than this."""
        return (math.floor(after_s / self.every_s) + 1) * self.every_s


def parse_times(times: object, tz: object) -> Times:
    """A duration (text or seconds) or a cron expression.

    Raises:
        TypeError: it is neither text nor a number.
        ConfigError: it is not understood, there are no such times, or there is no such time zone.
    """
    if not isinstance(times, str):
        if tz is not None:
            raise ConfigError(_TZ_FOR_INTERVAL)
        return Interval(interval_s(times))
    text = times.strip()
    if text.startswith("@") or len(text.split()) > 1:
        return CronTimes(text, _zone(tz))
    if tz is not None:
        raise ConfigError(_TZ_FOR_INTERVAL)
    return Interval(interval_s(times))


_TZ_FOR_INTERVAL: Final = (
    "tz is for cron expressions: an interval is counted from 1970-01-01 in UTC. "
    'For each day at a local time write "0 3 * * *"'
)


def interval_s(every: object, what: str = "every") -> int:
    """A duration in whole seconds: text such as `1h30m`, or a number of seconds.

    Raises:
        TypeError: it is neither text nor a number.
        ConfigError: it is not understood, or not from 1 s to 366 days.
    """
    if isinstance(every, str):
        text = every.strip()
        if not _DURATION.fullmatch(text):
            raise ConfigError(f"{what} is {every[:60]!r}: {EXPECTED}")
        parts = _PART.findall(text)
        order = [UNITS_S[unit] for _, unit in parts]
        if order != sorted(set(order), reverse=True):
            raise ConfigError(f"{what} is {every[:60]!r}: each unit once, the larger one first, such as 1h30m")
        seconds = float(sum(int(number) * UNITS_S[unit] for number, unit in parts))
    else:
        if isinstance(every, bool) or not isinstance(every, int | float):
            raise TypeError(f"{what} must be a text or a number of seconds, not {type(every).__name__}: {EXPECTED}")
        seconds = checked_timeout_s(every, what)
    if not 1 <= seconds <= LONGEST_S or not seconds.is_integer():
        raise ConfigError(f"{what} is {every!r}: it must be whole seconds, from 1 s to 366 days")
    return int(seconds)


def checked_timeout_s(value: object, what: str = "timeout") -> float:
    """Return a time in seconds as a float. Raises `TypeError`, or `ConfigError` if it is not positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number of seconds, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:  # an integer that is larger than any float
        seconds = math.inf if value > 0 else -math.inf
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{what} is {seconds:g}: it must be a positive number of seconds")
    return seconds


def _zone(tz: object) -> tzinfo:
    if tz is None:
        return UTC
    if isinstance(tz, tzinfo):
        return tz
    if not isinstance(tz, str):
        raise TypeError(f"tz must be a datetime.tzinfo or the name of a time zone, not {type(tz).__name__}")
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"tz is {tz[:60]!r}: this machine knows no such time zone. Expected a name such as Europe/Berlin "
            "(the package tzdata has them all)"
        ) from error


def times_between(times: Times, after_s: float, until_s: float, most: int) -> list[int]:
    """The newest times, at most so many, that are later than `after_s` and not later than `until_s`."""
    span_s = 3600.0
    while True:
        start_s = max(after_s, until_s - span_s)
        found: list[int] = []
        at_s = times.next_s(start_s)
        while at_s <= until_s:
            found.append(at_s)
            at_s = times.next_s(at_s)
        if len(found) >= most or start_s <= after_s:
            return found[-most:]
        span_s *= 2


def time_text(time_s: int) -> str:
    """A time as it stands in keys: `2026-11-29T12:05:00Z`."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> int | None:
    """The opposite of `time_text`; None if it is none."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None
