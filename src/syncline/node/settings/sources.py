"""Settings from a file, the environment and flags: one set of names, and errors that name the place.

A flag overrides the environment, the environment overrides the file. An unknown setting, or one of the wrong type, is
refused with its place and with the accepted values.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from syncline.errors import ConfigError
from syncline.node.settings.declare import Setting
from syncline.node.settings.toml_file import read_settings_file

__all__ = ["ENVIRONMENT_PREFIX", "Given", "converted", "gather", "located"]

ENVIRONMENT_PREFIX: Final = "SYNCLINE_"
NEAR: Final = 0.75
"""Similarity from which an environment variable counts as a misspelt setting."""

OF_CLIENTS: Final = frozenset({"token", "token_file", "password_file", "key_file"})
"""Settings of the command that are close to those of a node: a program may have both."""

SECRETS: Final = frozenset({"peer_secret", "secret"})
"""Settings whose value is never shown."""


@dataclass(frozen=True, slots=True)
class Given:
    """A setting as it was given."""

    value: object
    shown: str
    """Its place and its name there, for errors: `a.toml, line 3: name`, or `--name`."""
    file: str = ""
    line: int = 0
    rank: int = 0
    """A source of a higher rank overrides those below it."""


def gather(
    known: Collection[str],
    *,
    file: str | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    listed: Collection[str] = (),
) -> dict[str, Given]:
    """What the sources give, by setting. A flag of None was not given. `listed`: what errors list as known.

    Raises:
        ConfigError: the file can't be read, or a source has an unknown setting.
    """
    found: dict[str, Given] = {}
    if file:
        values, lines = read_settings_file(file)
        for name, value in values.items():
            line = lines.get(name, 0)
            place = f"{file}, line {line}" if line else file
            found[name] = Given(value, f"{place}: {name}", file, line)
    for name, text in _from_environment(environment or {}, known).items():
        found[name] = Given(text, f"environment variable {ENVIRONMENT_PREFIX}{name.upper()}", rank=1)
    for name, value in (flags or {}).items():
        if value is not None:
            found[name] = Given(value, f"--{name.replace('_', '-')}", rank=2)
    for name, given in found.items():
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(listed or known)}"
            raise ConfigError(f"{given.shown}: there is no such setting; {hint}")
    return found


def _from_environment(environment: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Settings from environment variables, also from names that are close to one.

    Other variables with the prefix are ignored: Kubernetes sets SYNCLINE_PORT and more for a service of that name.
    """
    found: dict[str, str] = {}
    for variable, value in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not variable.startswith(ENVIRONMENT_PREFIX) or name in OF_CLIENTS:
            continue
        if difflib.get_close_matches(name, known, n=1, cutoff=NEAR):
            found[name] = value
    return found


def converted(declared: Setting, given: Given) -> object:
    """The value of a setting, checked by its declared type and limits; from text, if it was given as text.

    Raises:
        ConfigError: it can't be used; the text names its place and what is accepted.
    """
    value, kind = given.value, declared.kind
    if isinstance(value, str):
        value = _from_text(kind, value, given.shown)
    elif kind == tuple[str, ...] and isinstance(value, list):
        value = tuple(value)
    try:
        return msgspec.convert(value, declared.annotation, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        if declared.name in SECRETS:
            raise ConfigError(f"{given.shown}: expected text") from None
        text = str(error)
        why = f"accepted are {', '.join(declared.choices)}" if declared.choices else text[:1].lower() + text[1:]
        raise ConfigError(f"{given.shown} = {value!r:.80}: {why}") from None


def _from_text(kind: object, text: str, shown: str) -> object:
    """Parse a setting's text form, from the environment or a flag."""
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind != dict[str, str]:
        return text
    members: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        member, equals, address = part.partition("=")
        if not equals or member in members:
            raise ConfigError(f"{shown} = {text!r}: expected name=host:port,name=host:port, each name once")
        members[member.strip()] = address.strip()
    return members


def located(error: ConfigError | TypeError, given: Mapping[str, Given], file: str | None) -> ConfigError:
    """The same error, with the places at which the settings were given that it is about."""
    settings = error.settings if isinstance(error, ConfigError) else ()
    if not settings:  # checks of names and addresses begin with the setting
        first = str(error).partition(" ")[0].partition("[")[0].rstrip(":")
        settings = (first,) if first in given else ()
    places = [given[name] for name in settings if name in given]
    lines = sorted({place.line for place in places if place.line})
    texts = [f"{file}, line{'s' if len(lines) > 1 else ''} {' and '.join(map(str, lines))}"] if lines else []
    texts += [place.shown for place in places if not place.file]
    prefix = " and ".join(texts) or file
    return ConfigError(f"{prefix}: {error}" if prefix else str(error), settings=settings)
