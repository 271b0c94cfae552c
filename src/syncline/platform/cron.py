"""Times of cron expressions, with time zones."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from syncline.errors import ConfigError

__all__ = ["CronTimes"]

ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SUNDAY: Final = 7
"""As the end of a range; elsewhere it is 0, too."""
LONGEST_MONTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

MAX_DAYS: Final = 366 * 41
"""A 29 February on a given day of the week comes after 40 years at most: 2100 is no leap year."""

DAYS_KNOWN: Final = 8
"""The times of so many days are remembered: the next time is often on the same day."""

_ITEM: Final = re.compile(r"(\*|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]{1,2}))?")
_NUMBER: Final = re.compile(r"[0-9]{1,2}")


FIELDS: Final = 'expected five fields, such as "30 2 * * mon-fri"; a duration has no spaces, such as "5m"'


class CronTimes:
    """The times of an expression of five fields: minute, hour, day of the month, month, day of the week.

    If neither day field begins with `*`, a day needs to match one of them; otherwise both. This is cron's rule.

    When clocks go forward, a time that is left out comes later by the gap, if the hours are named; `*` hours have no
    such time. When clocks go back, a time that comes twice is taken once, at first, if the hours are named; `*` hours
    are taken twice.
    """

    def __init__(self, text: str, zone: tzinfo) -> None:
        """Raises `ConfigError` if the expression is not understood, or has no time."""
        self._zone = zone
        self._known: dict[date, list[int]] = {}
        fields = ALIASES.get(text.lower(), text).lower().split()
        if len(fields) != 5:
            known = f"accepted are {', '.join(ALIASES)}" if text.startswith("@") else FIELDS
            raise ConfigError(f"the cron expression {text[:60]!r}: {known}")
        minute, hour, day, month, weekday = fields
        self._minutes = sorted(_numbers(text, "minute", minute, 0, 59))
        self._hours = sorted(_numbers(text, "hour", hour, 0, 23))
        self._days = _numbers(text, "day of the month", day, 1, 31)
        self._months = _numbers(text, "month", month, 1, 12, MONTHS)
        self._weekdays = {number % SUNDAY for number in _numbers(text, "day of the week", weekday, 0, SUNDAY, DAYS)}
        self._both = day.startswith("*") or weekday.startswith("*")
        self._any_hour = hour.startswith("*")
        if self._both and not any(min(self._days) <= LONGEST_MONTHS[number - 1] for number in self._months):
            raise ConfigError(f"the cron expression {text[:60]!r} has no time: no such month has day {min(self._days)}")

    def next_s(self, after_s: float) -> int:
        """The first time that is later than this. Raises `ConfigError` if there is none before the year 9999."""
        best_s: int | None = None
        try:
            day = datetime.fromtimestamp(after_s, self._zone).date() - timedelta(2)
            last = day + timedelta(MAX_DAYS)
            while day <= last:
                if self._has(day):
                    found = self._on(day)
                    place = bisect_right(found, after_s)
                    if place < len(found) and (best_s is None or found[place] < best_s):
                        best_s = found[place]
                        # A day may be moved over the next one, where clocks leave out a day.
                        last = datetime.fromtimestamp(best_s, self._zone).date() + timedelta(1)
                day += timedelta(1)
        except (OverflowError, ValueError, OSError) as error:
            raise ConfigError(f"the time {after_s!r} is beyond the calendar: is the clock right?") from error
        if best_s is None:
            raise ConfigError("the cron expression has no time within 40 years")
        return best_s

    def _has(self, day: date) -> bool:
        if day.month not in self._months:
            return False
        in_month, in_week = day.day in self._days, day.isoweekday() % SUNDAY in self._weekdays
        return (in_month and in_week) if self._both else (in_month or in_week)

    def _on(self, day: date) -> list[int]:
        """The times of a day that matches, in their order."""
        found = self._known.get(day)
        if found is None:
            if len(self._known) > DAYS_KNOWN:
                self._known.clear()
            found = self._known[day] = self._times_on(day)
        return found

    def _times_on(self, day: date) -> list[int]:
        start = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        noon, end = start.replace(hour=12), start + timedelta(1)
        offsets = {at.utcoffset() for at in (start, start.replace(fold=1), noon, end, end.replace(fold=1))}
        if len(offsets) == 1:
            start_s = _seconds(start)
            return [start_s + hour * 3600 + minute * 60 for hour in self._hours for minute in self._minutes]
        return sorted(set(self._on_long_or_short(start)))

    def _on_long_or_short(self, start: datetime) -> Iterator[int]:
        """The times of a day on which clocks are changed."""
        for hour in self._hours:
            for minute in self._minutes:
                local = start.replace(hour=hour, minute=minute)
                first, second = _seconds(local), _seconds(local.replace(fold=1))
                if first <= second:
                    yield first
                    if self._any_hour:
                        yield second
                elif not self._any_hour:
                    yield first  # left out: later by the gap


def _seconds(local: datetime) -> int:
    return round((local.astimezone(UTC) - _EPOCH).total_seconds())


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _numbers(text: str, what: str, field: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    """The numbers of a field: lists of numbers, names and ranges, each with a step."""
    found: set[int] = set()
    for item in field.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ConfigError(f"the cron expression {text[:60]!r}: the {what} {item!r} is not understood")
        begin, end, step = match.groups()
        if begin == "*":
            if end is not None:
                raise ConfigError(f"the cron expression {text[:60]!r}: the {what} {item!r} is not understood")
            first, last = low, high
        else:
            first = _number(text, what, begin, low, high, names)
            last = first if end is None else _number(text, what, end, low, high, names)
            if end is None and step is not None:
                last = high
            if last == 0 and first and high == SUNDAY:
                last = SUNDAY
        if first > last:
            raise ConfigError(f"the cron expression {text[:60]!r}: the {what} {item!r} ends before it begins")
        if step is not None and int(step) == 0:
            raise ConfigError(f"the cron expression {text[:60]!r}: the step of the {what} {item!r} is 0")
        found.update(range(first, last + 1, int(step or 1)))
    return found


def _number(text: str, what: str, given: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if given in names:
        return names.index(given) + (1 if low else 0)
    number = int(given) if _NUMBER.fullmatch(given) else -1
    if not low <= number <= high:
        raise ConfigError(f"the cron expression {text[:60]!r}: the {what} {given!r} is not from {low} to {high}")
    return number
