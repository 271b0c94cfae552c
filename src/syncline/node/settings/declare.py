"""Declare the settings of a struct, and describe them.

    class Timers(msgspec.Struct):
        heartbeat_s: float = 0.1

    settings_of(Timers, {"heartbeat_s": setting("How often a leader sends heartbeats.", ge=0.001, le=60)})

The unit is the end of the name: `_s` for seconds, `_bytes` for bytes.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta

from syncline.errors import ConfigError

__all__ = ["Setting", "check_range", "documented", "flag_help", "flag_of", "setting", "settings_of"]

HELP_COLUMNS: Final = 100
UNITS: Final = {"_s": "seconds", "_bytes": "bytes"}
SHORT_UNITS: Final = {"seconds": " s", "bytes": " bytes"}


def setting(
    text: str,
    *,
    trade_off: str = "",
    default: str = "",
    why: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
) -> Meta:
    """Declare a setting: what it does, and what speaks for a higher or a lower value.

    `default` says what the default value stands for, if it is not taken as it is. `why`: the reason of the limits.
    """
    notes = {"trade_off": trade_off, "default": default, "why": why}
    limits: dict[str, Any] = {"ge": ge, "gt": gt, "le": le}  # any two of the three are for overloads of `Meta`
    return Meta(description=text, extra={name: note for name, note in notes.items() if note}, **limits)


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting."""

    name: str
    kind: Any
    """Its type."""
    annotation: Any
    """Its type, with its limits, for `msgspec.convert`."""
    text: str
    trade_off: str
    why: str
    required: bool
    default: object
    default_text: str
    least: float | None
    above: float | None
    most: float | None

    @property
    def unit(self) -> str:
        """`seconds`, `bytes`, or nothing."""
        return next((unit for end, unit in UNITS.items() if self.name.endswith(end)), "")

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that are accepted, if they are a few."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def accepted(self) -> str:
        """The values that are accepted, in words; empty if the type says it all."""
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.least is not None and self.most is not None:
            return f"from {self.least:.15g} to {self.most:.15g}"
        parts = [
            f"{word} {limit:.15g}"
            for word, limit in (("at least", self.least), ("above", self.above), ("at most", self.most))
            if limit is not None
        ]
        return ", ".join(parts)

    @property
    def type_text(self) -> str:
        """Its type, as it is written."""
        if self.choices:
            return "str"
        name: str = getattr(self.kind, "__name__", "") if type(self.kind) is type else str(self.kind)
        return name.rpartition("tls.")[2]

    @property
    def shown_default(self) -> str:
        """The default, with its unit; what it stands for, if that is something else."""
        if self.default_text or self.required:
            return self.default_text
        unit = SHORT_UNITS.get(self.unit, "")
        return repr(self.default) if isinstance(self.default, str | tuple | dict) else f"{self.default}{unit}"


def settings_of(struct: type[msgspec.Struct], declared: Mapping[str, Meta]) -> dict[str, Setting]:
    """The settings of a struct, in its order. Each of its fields must be declared."""
    return {field.name: _setting_of(field, declared[field.name]) for field in msgspec.structs.fields(struct)}


def _setting_of(field: msgspec.structs.FieldInfo, meta: Meta) -> Setting:
    default = field.default if field.default_factory is NODEFAULT else field.default_factory()
    notes = meta.extra or {}
    return Setting(
        name=field.name, kind=field.type, annotation=Annotated[field.type, meta], text=meta.description or "",
        trade_off=notes.get("trade_off", ""), why=notes.get("why", ""),
        required=default is NODEFAULT, default=default, default_text=notes.get("default", ""),
        least=meta.ge, above=meta.gt, most=meta.le,
    )  # fmt: skip


def check_range(known: Mapping[str, Setting], struct: msgspec.Struct) -> None:
    """Raise ConfigError if a number of a struct is outside its declared limits: a struct does not look itself."""
    for name, declared in known.items():
        value = getattr(struct, name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        good = (
            (declared.least is None or value >= declared.least)
            and (declared.above is None or value > declared.above)
            and (declared.most is None or value <= declared.most)
        )
        if not good:  # also of a "nan", which compares false with everything
            unit = f" {declared.unit}" if declared.unit else ""
            why = f", {declared.why}" if declared.why else ""
            raise ConfigError(f"{name} is {value}: it must be {declared.accepted}{unit}{why}", settings=(name,))


def documented(struct: type[msgspec.Struct], known: Mapping[str, Setting]) -> str:
    """The docstring of a struct, with its settings below it: default, unit, limits, trade-off."""
    parts = [inspect.cleandoc(struct.__doc__ or ""), "Settings:"]
    for declared in known.values():
        head = f"{declared.name}: {declared.type_text}"
        if not declared.required:
            head += f" = {declared.default!r}"
        limits = [part for part in (declared.unit, declared.accepted) if part]
        notes = [declared.text]
        if declared.default_text:
            notes.append(f"The default: {declared.default_text}.")
        if limits:
            notes.append(f"Accepted: {', '.join(limits)}{', ' + declared.why if declared.why else ''}.")
        if declared.trade_off:
            notes.append(f"Trade-off: {declared.trade_off}")
        indent = "    "
        parts.append(
            "\n".join(
                [
                    head,
                    *(
                        textwrap.fill(
                            note,
                            HELP_COLUMNS,
                            initial_indent=indent,
                            subsequent_indent=indent,
                            break_long_words=False,
                            break_on_hyphens=False,
                        )
                        for note in notes
                    ),
                ]
            )
        )
    return "\n\n".join(parts)


def flag_of(name: str) -> str:
    """The flag of a setting: `--data-dir`."""
    return "--" + name.replace("_", "-")


def flag_help(declared: Setting, known: Mapping[str, Setting]) -> str:
    """The help of a setting's flag: what it does, what is accepted, the default."""

    def flags_for_names(found: re.Match[str]) -> str:
        return flag_of(found[1]) if found[1] in known else found[1]

    text = re.sub(r"`([^`]+)`", flags_for_names, declared.text)
    if declared.accepted:
        text += f" Accepted: {declared.accepted}."
    plain = isinstance(declared.default, str | int | float) and not isinstance(declared.default, bool)
    if declared.default_text or (plain and declared.default != ""):
        default = declared.default if isinstance(declared.default, str) else declared.shown_default
        text += f"  [default: {declared.default_text or default}]"
    return text
