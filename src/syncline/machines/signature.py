"""The arguments and the answer of a command or query, checked by its annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from syncline.errors import ConfigError, Outcome, RequestFailed
from syncline.machines.codec import Codec, UnfitType

__all__ = ["ANSWERED", "Signature"]

ANSWERED: Final = b"\x01"
"""An answer follows, encoded."""
NOT_ANSWERED: Final = b"\x00"
"""The answer could not be encoded: text that says why follows."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_ONE: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature:
    """How one method is called. `where` names it in errors, such as "Jobs.take".

    Raises:
        ConfigError: the method can't be called over the cluster: the text names the parameter.
    """

    def __init__(self, where: str, function: Callable[..., object], hints: Mapping[str, object]) -> None:
        self.where = where
        self._bound = inspect.signature(function)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(f"{where} is `async def`: a state machine waits for nothing. Write an ordinary function")
        if inspect.isgeneratorfunction(function):
            raise ConfigError(f"{where} is a generator, because it has a `yield`: return a list")
        parameters = list(self._bound.parameters.values())
        self.shown: inspect.Signature = _shown(parameters[1:], hints)
        """The signature of a call on an open machine, with types in place of their names."""
        if not parameters:
            raise ConfigError(f"{where} has no `self`")
        fields: list[tuple[str, type] | tuple[str, Any, object]] = []
        for parameter in parameters[1:]:
            name = parameter.name
            if parameter.kind not in _ONE:
                raise ConfigError(f"{where}: {parameter} can't be replicated: give each argument a name of its own")
            kind = self._hint(hints, name, f"the parameter {name}", any_allowed=True)
            if parameter.default is inspect.Parameter.empty:
                fields.append((name, kind))
            else:  # a default is the method's own: a call from before the parameter was there has none
                self._check_default(parameter, kind)
                fields.append((name, kind | UnsetType, UNSET))
        self._codec = Codec(self._hint(hints, "return", "the answer", any_allowed=True), any_allowed=True)
        arguments = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        self._names = tuple(parameter.name for parameter in parameters[1:])
        self._decoder = msgspec.msgpack.Decoder(arguments)

    def _hint(self, hints: Mapping[str, object], name: str, what: str, *, any_allowed: bool) -> type:
        if name not in hints:
            arrow = "`-> None` if there is none" if name == "return" else f"`{name}: str`"
            raise ConfigError(f"{self.where}: {what} has no annotation: write {arrow}")
        try:
            Codec(hints[name], any_allowed=any_allowed)
        except UnfitType as error:
            raise ConfigError(f"{self.where}: {what} can't be encoded: {error}") from None
        return hints[name]  # type: ignore[return-value]  # a type, or a form of typing, which msgspec takes alike

    def _check_default(self, parameter: inspect.Parameter, kind: type) -> None:
        """Check it as an argument of a call: it is the argument of calls that give none, old entries of the log too."""
        default = parameter.default
        try:
            msgspec.msgpack.decode(_ENCODER.encode(default), type=kind)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            text = str(error)
            raise ConfigError(
                f"{self.where}: the default {default!r:.80} of the parameter {parameter.name} does not fit its"
                f" annotation: {text[:1].lower()}{text[1:]}"
                + (". For a parameter that may be None, add `| None` to the annotation" if default is None else "")
            ) from None

    # -- arguments ----------------------------------------------------------------------------------------------------

    def dump(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """Check and encode the arguments of a call. Raises TypeError or ConfigError, which name the parameter."""
        try:
            bound = self._bound.bind(None, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.where}: {error}") from None
        bound.apply_defaults()
        given = {name: bound.arguments[name] for name in self._names}
        try:
            data = _ENCODER.encode(given)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"{self.where}: {_unfit(given)} can't be encoded: {error}") from None
        try:
            self._decoder.decode(data)
        except msgspec.ValidationError as error:
            kind = TypeError if ", got `" in str(error) else ConfigError
            raise kind(f"{self.where}: {_plainly(error)}") from None
        return data

    def load(self, data: bytes | msgspec.Raw) -> dict[str, object]:
        """Decode arguments. Raises msgspec.ValidationError."""
        found = self._decoder.decode(data)
        values = ((name, getattr(found, name)) for name in self._names)
        return {name: value for name, value in values if value is not UNSET}

    @staticmethod
    def envelope(name: str, data: bytes) -> bytes:
        """A command as it stands in the log: its name and its encoded arguments."""
        return _ENCODER.encode((name, msgspec.Raw(data)))

    # -- answers ------------------------------------------------------------------------------------------------------

    def dump_answer(self, answer: object) -> bytes:
        """Encode an answer, alike on all nodes. One that can't be encoded becomes a text with the reason."""
        try:
            return ANSWERED + self._codec.dump(answer)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return NOT_ANSWERED + f"its answer, a {type(answer).__name__}, can't be encoded: {error}".encode()

    def load_answer(self, data: bytes) -> object:
        """Decode an answer. Raises RequestFailed if it could not be encoded, or is of another type than declared."""
        if data[:1] == ANSWERED:
            try:
                return self._codec.load(data[1:])
            except msgspec.ValidationError as error:
                why = f"its answer does not fit the annotation: {_plainly(error)}"
        else:
            why = data[1:].decode(errors="replace")
        text = f"{self.where}: {why}. (If it is a command, it was applied all the same)"
        raise RequestFailed(text, code="bad_answer", outcome=Outcome.UNKNOWN)


def _shown(parameters: list[inspect.Parameter], hints: Mapping[str, Any]) -> inspect.Signature:
    typed = [one.replace(annotation=hints.get(one.name, inspect.Parameter.empty)) for one in parameters]
    return inspect.Signature(typed, return_annotation=hints.get("return", inspect.Signature.empty))


def _unfit(given: Mapping[str, object]) -> str:
    """The parameter whose value can't be encoded."""
    for name, value in given.items():
        try:
            _ENCODER.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return f"the argument {name}"
    return "an argument"


def _plainly(error: msgspec.ValidationError) -> str:
    """The text of msgspec, with the name of the parameter first."""
    text, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").removeprefix(".")
    return f"{path}: {text[:1].lower()}{text[1:]}" if path else text[:1].lower() + text[1:]
