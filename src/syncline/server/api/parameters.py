"""Declared parameters: one object has the name, the type, the range and the default, and reads the value.

A handler reads a parameter by its declaration alone, so `/openapi.json` can't tell anything else.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from syncline.server.http.request import DURATION_PATTERN, Parameters

__all__ = ["Boolean", "Choice", "Seconds", "Integer", "Octets", "Parameter", "Query", "Schema", "Text"]

Schema: TypeAlias = dict[str, object]
"""A JSON Schema (2020-12), as OpenAPI 3.1 has it."""


class _Named(msgspec.Struct, frozen=True):
    name: str
    about: str


class Parameter(_Named, frozen=True, kw_only=True):
    """One declared parameter. Its class has `of(parameters)`, which gives its value or its default."""

    required: bool = False

    def schema(self) -> Schema:
        """The JSON Schema of its value."""
        return {"type": "string"}


class Octets(Parameter, frozen=True, kw_only=True):
    """Bytes of any value, percent-encoded. `max_bytes` is checked by the handler; 0: any number."""

    max_bytes: int = 0

    def of(self, parameters: Parameters) -> bytes | None:
        """The decoded bytes; None if it is not given."""
        return parameters.octets(self.name)

    def schema(self) -> Schema:
        schema = super().schema()
        if self.required:
            schema["minLength"] = 1
        if self.max_bytes:
            schema["maxLength"] = self.max_bytes
        return schema


class Text(Parameter, frozen=True, kw_only=True):
    """A text in UTF-8."""

    default: str = ""

    def of(self, parameters: Parameters) -> str:
        return parameters.text(self.name, self.default)

    def schema(self) -> Schema:
        return {"type": "string", "default": self.default}


class Choice(Parameter, frozen=True, kw_only=True):
    """One of some words; the first is the default."""

    choices: tuple[str, ...]

    def of(self, parameters: Parameters) -> str:
        return parameters.choice(self.name, self.choices)

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.choices), "default": self.choices[0]}


class Boolean(Parameter, frozen=True, kw_only=True):
    """`true`, `1` or the bare name; `false` or `0`; absent is false. `others`: further words that it takes."""

    others: tuple[str, ...] = ()

    def of(self, parameters: Parameters) -> bool:
        assert not self.others, "word: it has more than two values"
        return parameters.boolean(self.name)

    def word(self, parameters: Parameters) -> str:
        """`true`, `false`, or one of the others."""
        given = parameters.octets(self.name)
        for other in self.others:
            if given == other.encode():
                return other
        known = "".join(f", and {other}" for other in self.others)
        return "true" if parameters.boolean(self.name, others=known) else "false"

    def schema(self) -> Schema:
        words: Schema = {"type": "string", "enum": ["1", "0", "", *self.others]}
        return {"anyOf": [{"type": "boolean"}, words], "default": False}


class Integer(Parameter, frozen=True, kw_only=True):
    """A whole number from `low` to `high`. Without `default` the request may leave it out."""

    default: int | None = None
    low: int
    high: int

    def of(self, parameters: Parameters) -> int:
        """The number."""
        assert self.default is not None, "given: it has no default"
        return parameters.integer(self.name, self.default, low=self.low, high=self.high)

    def given(self, parameters: Parameters) -> int | None:
        """The number; None if it is not given."""
        if self.name not in parameters:
            return None
        return parameters.integer(self.name, self.low, low=self.low, high=self.high)

    def schema(self) -> Schema:
        schema: Schema = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return schema if self.default is None else {**schema, "default": self.default}


class Seconds(Parameter, frozen=True, kw_only=True):
    """A time such as `5s` or `250ms`, in seconds; above zero, from `low_s` to `high_s`. Without `default_s` the
    request may leave it out.
    """

    default_s: float | None = None
    low_s: float = 0.0
    high_s: float

    def of(self, parameters: Parameters) -> float:
        """Seconds."""
        assert self.default_s is not None, "given: it has no default"
        return parameters.duration_s(self.name, self.default_s, low=self.low_s, high=self.high_s)

    def given(self, parameters: Parameters) -> float | None:
        """Seconds; None if it is not given."""
        if self.name not in parameters:
            return None
        return parameters.duration_s(self.name, 0.0, low=self.low_s, high=self.high_s)

    def schema(self) -> Schema:
        least = f"from {self.low_s:g}s" if self.low_s else "above zero"
        schema: Schema = {
            "type": "string",
            "pattern": f"^{DURATION_PATTERN}$",
            "description": f"A time such as 5s, 250ms or 1m: {least}, at most {self.high_s:.10g}s.",
        }
        return schema if self.default_s is None else {**schema, "default": f"{self.default_s:g}s"}


class Query:
    """The parameters of a route."""

    __slots__ = ("accepted", "parameters")

    def __init__(self, *parameters: Parameter) -> None:
        self.parameters: Final = parameters
        self.accepted: Final = frozenset(one.name for one in parameters)
        assert len(self.accepted) == len(parameters), "two parameters have one name"

    def parse(self, query: bytes) -> Parameters:
        """Split a request's query. Raises `RequestError` for a parameter that is unknown, repeated or malformed."""
        return Parameters(query, self.accepted)

    def plus(self, *parameters: Parameter) -> Query:
        """These parameters and more."""
        return Query(*self.parameters, *parameters)
