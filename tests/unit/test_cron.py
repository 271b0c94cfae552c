"""Times of cron expressions and intervals: against a search minute by minute, and when clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.errors import ConfigError
from syncline.platform.cron import CronTimes
from syncline.platform.times import (
    Interval,
    interval_s,
    parse_time,
    parse_times,
    time_text,
    times_between,
)

BERLIN = ZoneInfo("Europe/Berlin")
"""Forward on 2026-03-29 at 02:00 to 03:00, back on 2026-10-25 at 03:00 to 02:00."""


def at(text: str, zone: ZoneInfo | None = None) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp())


def times(text: str, start: str, end: str, tz: str | None = None) -> list[str]:
    """The times in UTC, without seconds."""
    found = times_between(parse_times(text, tz), at(start) - 1, at(end), 1000)
    return [datetime.fromtimestamp(one, UTC).strftime("%m-%d %H:%M") for one in found]


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    part = st.one_of(
        number.map(str),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
        st.tuples(number, number, st.integers(1, 20)).map(lambda item: f"{min(item[:2])}-{max(item[:2])}/{item[2]}"),
        st.integers(1, 30).map(lambda step: f"*/{step}"),
    )
    return st.one_of(st.just("*"), st.lists(part, min_size=1, max_size=3).map(",".join))


EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)).map(" ".join)


@cache
def naive_numbers(text: str, low: int, high: int) -> set[int]:
    """Each number of the field, one after the other."""
    found = set()
    for part in text.split(","):
        body, _, step = part.partition("/")
        first, last = (low, high) if body == "*" else (int(body.partition("-")[0]), int(body.rpartition("-")[2]))
        found |= {number for number in range(low, high + 1) if first <= number <= last} & set(
            range(first, high + 1, int(step or 1))
        )
    return found


def naive_matches(text: str, local: datetime) -> bool:
    minute, hour, day, month, weekday = text.split()
    if local.minute not in naive_numbers(minute, 0, 59) or local.hour not in naive_numbers(hour, 0, 23):
        return False
    if local.month not in naive_numbers(month, 1, 12):
        return False
    in_month = local.day in naive_numbers(day, 1, 31)
    in_week = (local.weekday() + 1) % 7 in {number % 7 for number in naive_numbers(weekday, 0, 7)}
    if day.startswith("*") or weekday.startswith("*"):
        return in_month and in_week
    return in_month or in_week


@given(EXPRESSIONS, st.integers(0, 3 * 366 * 24 * 60))
@settings(max_examples=30, deadline=None)
def test_cron_next_time_is_that_of_a_search_by_minutes(text: str, offset_min: int) -> None:
    after_s = at("2026-01-01") + offset_min * 60
    found_s = CronTimes(text, UTC).next_s(after_s)
    moment = datetime.fromtimestamp(after_s, UTC)
    limit = moment + timedelta(days=3)
    while moment < limit:
        moment += timedelta(minutes=1)
        if naive_matches(text, moment):
            assert found_s == int(moment.timestamp())
            return
    assert found_s > limit.timestamp()
    assert naive_matches(text, datetime.fromtimestamp(found_s, UTC))


@given(field(0, 59), st.sampled_from(["2026-03-28T20:00", "2026-10-24T20:00", "2026-07-01T00:00"]))
@settings(max_examples=10, deadline=None)
def test_cron_with_any_hour_is_true_of_each_local_minute(minutes: str, start: str) -> None:
    """Also when clocks are changed: each minute that there is, once."""
    text = f"{minutes} * * * *"
    found = times_between(CronTimes(text, BERLIN), at(start), at(start) + 86400, 3000)
    expected = [
        moment
        for moment in range(at(start) + 60, at(start) + 86401, 60)
        if naive_matches(text, datetime.fromtimestamp(moment, BERLIN))
    ]
    assert found == expected


@given(EXPRESSIONS, st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]))
@settings(max_examples=40, deadline=None)
def test_cron_times_rise_and_each_is_one(text: str, tz: str) -> None:
    expression = parse_times(text, tz)
    time_s = at("2026-03-25")
    for _ in range(20):
        next_s = expression.next_s(time_s)
        assert next_s > time_s
        assert expression.next_s(next_s - 1) == next_s
        assert expression.next_s(next_s - 0.5) == next_s
        time_s = next_s


def test_cron_fixed_hour_in_the_gap_comes_later_by_the_gap() -> None:
    assert times("30 2 * * *", "2026-03-28", "2026-03-31", "Europe/Berlin") == [
        "03-28 01:30", "03-29 01:30", "03-30 00:30",
    ]  # fmt: skip
    assert datetime.fromtimestamp(at("2026-03-29T01:30"), BERLIN).strftime("%H:%M") == "03:30"


def test_cron_any_hour_in_the_gap_has_no_time() -> None:
    assert times("30 * * * *", "2026-03-29T00:00", "2026-03-29T03:00", "Europe/Berlin") == [
        "03-29 00:30", "03-29 01:30", "03-29 02:30",
    ]  # fmt: skip


def test_cron_fixed_hour_that_comes_twice_is_taken_at_first() -> None:
    assert times("30 2 * * *", "2026-10-24", "2026-10-27", "Europe/Berlin") == [
        "10-24 00:30", "10-25 00:30", "10-26 01:30",
    ]  # fmt: skip


def test_cron_any_hour_that_comes_twice_is_taken_twice() -> None:
    assert times("30 * * * *", "2026-10-25T00:00", "2026-10-25T03:00", "Europe/Berlin") == [
        "10-25 00:30", "10-25 01:30", "10-25 02:30",
    ]  # fmt: skip
    assert times("*/30 */2 * * *", "2026-10-25T00:00", "2026-10-25T02:00", "Europe/Berlin") == [
        "10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30",
    ]  # fmt: skip


def test_cron_hours_moved_by_the_gap_are_taken_once() -> None:
    """02:30 is moved to 03:30, which is named, too."""
    assert times("30 2,3 * * *", "2026-03-29T00:00", "2026-03-29T12:00", "Europe/Berlin") == ["03-29 01:30"]


def test_cron_day_that_is_left_out_is_moved() -> None:
    """Samoa had no 30 December 2011."""
    assert times("0 10 30 12 *", "2011-12-28", "2012-01-02", "Pacific/Apia") == ["12-30 20:00"]
    assert times("0 10 * * *", "2011-12-29", "2012-01-01", "Pacific/Apia") == [
        "12-29 20:00", "12-30 20:00", "12-31 20:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@hourly", "0 * * * *"),
        ("@DAILY", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * sun"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 jan *"),
        ("@annually", "0 0 1 1 *"),
        ("0 9 * * mon-fri", "0 9 * * 1-5"),
        ("0 9 * * FRI-SUN", "0 9 * * 5,6,0"),
        ("0 9 * * 7", "0 9 * * 0"),
        ("5/20 0 * * *", "5,25,45 0 * * *"),
        ("  0   9  * jan,Mar *  ", "0 9 * 1,3 *"),
    ],
)
def test_cron_names_and_short_forms_are_numbers(text: str, expected: str) -> None:
    start, end = at("2026-01-01"), at("2027-02-01")
    one, other = parse_times(text, None), parse_times(expected, None)
    assert times_between(one, start, end, 500) == times_between(other, start, end, 500)


def test_cron_either_day_field_matches_if_both_are_given() -> None:
    assert times("0 0 13 * fri", "2026-02-01", "2026-02-28") == [
        "02-06 00:00", "02-13 00:00", "02-20 00:00", "02-27 00:00",
    ]  # fmt: skip
    assert times("0 0 13 3 fri", "2026-03-01", "2026-03-28")[:2] == ["03-06 00:00", "03-13 00:00"]
    assert times("0 0 */13 * fri", "2026-02-01", "2026-03-31") == ["02-27 00:00", "03-27 00:00"]


def test_cron_leap_day_is_found_after_years() -> None:
    assert time_text(CronTimes("0 0 29 2 *", UTC).next_s(at("2097-01-01"))) == "2104-02-29T00:00:00Z"
    leap_monday = CronTimes("0 0 29 2 */7", UTC).next_s(at("2026-01-01"))
    assert time_text(leap_monday) == "2032-02-29T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("60 * * * *", "minute '60' is not from 0 to 59"),
        ("* 24 * * *", "hour '24' is not from 0 to 23"),
        ("* * 0 * *", "day of the month '0' is not from 1 to 31"),
        ("* * * 13 *", "month '13' is not from 1 to 12"),
        ("* * * * 8", "day of the week '8' is not from 0 to 7"),
        ("* * * foo *", "month 'foo' is not"),
        ("* * * * *-5", "'\\*-5' is not understood"),
        ("5-1 * * * *", "ends before it begins"),
        ("*/0 * * * *", "step of the minute '\\*/0' is 0"),
        ("1,,2 * * * *", "'' is not understood"),
        ("* * * *", "expected five fields"),
        ("* * * * * *", "expected five fields"),
        ("@reboot", "accepted are @yearly"),
        ("0 0 30 2 *", "no such month has day 30"),
        ("0 0 31 4,6,9,11 *", "has no time"),
        ("a b c d e", "not from"),
        ("\u0661 * * * *", "is not understood"),
    ],
)
def test_cron_expression_that_is_wrong_is_refused(text: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        parse_times(text, None)


@pytest.mark.parametrize("time_s", [1e18, -1e18, 253402300800.0])
def test_cron_beyond_the_calendar_is_refused(time_s: float) -> None:
    with pytest.raises(ConfigError, match="beyond the calendar"):
        CronTimes("0 0 * * *", UTC).next_s(time_s)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("90s", 90), ("1h30m", 5400), ("1d", 86400), ("2w", 1209600), (300, 300), (60.0, 60), (" 5m ", 300)],
)
def test_interval_is_a_duration_or_seconds(text: str | float, seconds: int) -> None:
    assert interval_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("5", ConfigError), ("", ConfigError), ("5x", ConfigError), ("m5", ConfigError), ("30m1h", ConfigError),
        ("5m5m", ConfigError), ("0s", ConfigError), ("1.5s", ConfigError), ("-5m", ConfigError), (0, ConfigError),
        (0.5, ConfigError), (1.5, ConfigError), (-1, ConfigError), (float("nan"), ConfigError),
        (float("inf"), ConfigError), ("9999w", ConfigError), (True, TypeError), (None, TypeError), (b"5m", TypeError),
    ],
)  # fmt: skip
def test_interval_that_is_wrong_is_refused(text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        interval_s(text)


@given(st.integers(1, 100_000), st.floats(0, 1e10))
@settings(max_examples=50, deadline=None)
def test_interval_times_are_multiples_since_1970(every_s: int, after_s: float) -> None:
    next_s = Interval(every_s).next_s(after_s)
    assert next_s % every_s == 0
    assert after_s < next_s <= after_s + every_s


@pytest.mark.parametrize("tz", ["nope", "../etc/passwd", "", "/etc/passwd", "Europe"])
def test_time_zone_that_is_unknown_is_refused(tz: str) -> None:
    with pytest.raises(ConfigError, match="knows no such time zone"):
        parse_times("0 0 * * *", tz)


def test_time_zone_of_an_interval_is_refused() -> None:
    for interval in ("5m", 300):
        with pytest.raises(ConfigError, match="tz is for cron"):
            parse_times(interval, "Europe/Berlin")
    with pytest.raises(TypeError, match="tz must be"):
        parse_times("0 0 * * *", 5)
    assert parse_times("0 0 * * *", BERLIN).next_s(at("2026-07-01")) == at("2026-07-01T22:00")


@given(st.integers(1, 20), st.integers(0, 400), st.integers(1, 120))
@settings(max_examples=40, deadline=None)
def test_times_between_are_the_newest(most: int, hours: int, step_min: int) -> None:
    expression, start = Interval(step_min * 60), at("2026-01-01") + 17
    end = start + hours * 3600
    all_times = [time_s for time_s in range(start, end + 1) if time_s % (step_min * 60) == 0] if hours < 30 else None
    found = times_between(expression, start, end, most)
    assert len(found) == min(most, (end // (step_min * 60)) - (start // (step_min * 60)))
    assert found == sorted(found)
    if all_times is not None:
        assert found == all_times[-most:]


@given(st.integers(0, 4_000_000_000))
@settings(max_examples=50, deadline=None)
def test_time_in_a_key_is_read_back(time_s: int) -> None:
    assert parse_time(time_text(time_s)) == time_s
    assert parse_time("nonsense") is None
