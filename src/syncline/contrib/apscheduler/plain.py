"""The state of a job as JSON, and back: triggers, times and zones are written so that a person can read them."""

from __future__ import annotations

import base64
import math
from datetime import date, datetime, timedelta, timezone, tzinfo
from enum import Enum
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.util import obj_to_ref, ref_to_obj

__all__ = ["from_plain", "json_dumps", "json_loads"]

KIND: Final = "!"
"""The member that names the kind of what JSON has no form for."""

DEPTH: Final = 50
"""Deeper values are refused: they would meet a limit of the interpreter."""


def json_dumps(state: dict[str, object]) -> bytes:
    """The JSON of a job's state.

    Raises:
        TypeError: an argument of the job has no form in JSON.
    """
    return msgspec.json.encode(_plain(state, DEPTH))


def json_loads(data: bytes) -> dict[str, object]:
    """The state that `json_dumps` has written.

    Raises:
        ValueError: it is not such a state.
    """
    state = from_plain(msgspec.json.decode(data))
    if not isinstance(state, dict):
        raise ValueError("the state of a job is no object")
    return state


def _plain(value: object, depth: int) -> object:
    if depth == 0:
        raise TypeError(f"a job's argument is nested more than {DEPTH} levels deep")
    match value:
        case Enum():  # before the numbers and texts that some are
            raise _no_form(value)
        case float() if not math.isfinite(value):  # JSON would have null
            return {KIND: "float", "is": str(value)}
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_plain(item, depth - 1) for item in value]
        case tuple() if not hasattr(value, "_fields"):  # a named tuple would come back without its names
            return {KIND: "tuple", "of": [_plain(item, depth - 1) for item in value]}
        case dict() if KIND not in value and all(isinstance(name, str) for name in value):
            return {name: _plain(item, depth - 1) for name, item in value.items()}
        case dict():
            pairs = [[_plain(name, depth - 1), _plain(item, depth - 1)] for name, item in value.items()]
            return {KIND: "dict", "of": pairs}
        case bytes():
            return {KIND: "bytes", "base64": base64.b64encode(value).decode("ascii")}
        case datetime():
            zone = None if value.tzinfo is None else _plain(value.tzinfo, depth - 1)
            return {KIND: "datetime", "at": value.isoformat(), "zone": zone}
        case date():
            return {KIND: "date", "on": value.isoformat()}
        case timedelta():
            return {KIND: "timedelta", "days": value.days, "s": value.seconds, "us": value.microseconds}
        case tzinfo():
            return {KIND: "zone", **_zone(value)}
        case BaseTrigger():
            return {KIND: "trigger", "class": obj_to_ref(type(value)), "state": _plain(_state_of(value), depth - 1)}
        case _:
            raise _no_form(value)


def _no_form(value: object) -> TypeError:
    return TypeError(
        f"a job's argument of the type {type(value).__name__} can't be written as JSON: give the job store dumps= and "
        "loads= of your own, such as those of pickle"
    )


def from_plain(value: object) -> object:
    """What `_plain` was given. Raises `ValueError` for what it has not made."""
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if KIND not in value:
        return {name: from_plain(item) for name, item in value.items()}
    try:
        return _special(value)
    except (KeyError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"the state of a job holds a {value[KIND]!r} that can't be read: {error}") from error


def _special(value: dict[str, object]) -> object:
    match value:
        case {"!": "tuple", "of": list(items)}:
            return tuple(from_plain(item) for item in items)
        case {"!": "dict", "of": list(items)}:
            return {from_plain(name): from_plain(item) for name, item in items}
        case {"!": "float", "is": str(text)}:
            return float(text)
        case {"!": "bytes", "base64": str(text)}:
            return base64.b64decode(text, validate=True)
        case {"!": "datetime", "at": str(text), "zone": zone}:
            at = datetime.fromisoformat(text)
            return at if zone is None else at.astimezone(_as_zone(from_plain(zone)))
        case {"!": "date", "on": str(text)}:
            return date.fromisoformat(text)
        case {"!": "timedelta", "days": int(days), "s": int(seconds), "us": int(microseconds)}:
            return timedelta(days=days, seconds=seconds, microseconds=microseconds)
        case {"!": "zone", "name": str(name)}:
            return ZoneInfo(name)
        case {"!": "zone", "offset_s": int() | float() as seconds}:
            return timezone(timedelta(seconds=seconds))
        case {"!": "trigger", "class": str(reference), "state": state}:
            return _trigger(reference, from_plain(state))
        case _:
            raise ValueError(f"the state of a job holds {value['!']!r}, which this version can't read")


def _as_zone(value: object) -> tzinfo:
    if not isinstance(value, tzinfo):
        raise ValueError(f"{value!r} is no time zone")
    return value


def _zone(zone: tzinfo) -> dict[str, object]:
    """The name of a zone (of `zoneinfo`, or of pytz), or its offset if that never changes."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if isinstance(name, str):
        return {"name": name}
    offset = zone.utcoffset(None)
    if offset is None:
        raise TypeError(f"the time zone {zone!r} has no name: use one of zoneinfo")
    return {"offset_s": offset.total_seconds()}


def _state_of(trigger: BaseTrigger) -> object:
    state = trigger.__getstate__()
    if isinstance(trigger, CronTrigger):
        return {**state, "fields": {field.name: str(field) for field in trigger.fields if not field.is_default}}
    triggers = getattr(trigger, "triggers", None)
    return state if triggers is None else {**state, "triggers": list(triggers)}


def _trigger(reference: str, state: object) -> BaseTrigger:
    kind = ref_to_obj(reference)
    if not isinstance(kind, type) or not issubclass(kind, BaseTrigger) or not isinstance(state, dict):
        raise ValueError(f"{reference} is no trigger")
    if issubclass(kind, CronTrigger):
        made = kind(
            **state["fields"],
            start_date=state["start_date"],
            end_date=state["end_date"],
            timezone=state["timezone"],
            jitter=state["jitter"],
        )
    elif "triggers" in state:
        made = kind(state["triggers"], jitter=state["jitter"])
    else:
        made = object.__new__(kind)
        made.__setstate__(state)
    assert isinstance(made, BaseTrigger)
    return made
