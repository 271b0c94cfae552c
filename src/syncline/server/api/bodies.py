"""Declared bodies of requests: raw octets, or a JSON document that is decoded strictly into a struct."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from syncline.decoding import UNDECODABLE, json_fault
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Schema
from syncline.server.http.documents import check_charset, check_members
from syncline.server.http.request import Request

__all__ = ["Body", "JsonBody", "RawBody"]

T = TypeVar("T")


class Body(Protocol):
    """What a route takes as its body. A request without a body is refused if it is `required`."""

    @property
    def about(self) -> str: ...

    @property
    def required(self) -> bool: ...

    def forms(self) -> Mapping[str, type | Schema]:
        """By media type: the struct of the document, or its schema."""
        ...


class RawBody(msgspec.Struct, frozen=True):
    """Bytes of any value; the handler checks `max_bytes`."""

    about: str
    max_bytes: int
    required: bool = True

    def forms(self) -> Mapping[str, type | Schema]:
        return {"application/octet-stream": {"type": "string", "format": "binary", "maxLength": self.max_bytes}}


class JsonBody(Generic[T]):
    """A JSON document: unknown fields, repeated members and wrong types are refused. `what` names it in errors, such
    as "a transaction". `type` forbids unknown fields.
    """

    __slots__ = ("_decoder", "_type", "_what", "about", "max_bytes", "required")

    def __init__(self, type: type[T], *, what: str, about: str, max_bytes: int) -> None:  # noqa: A002 - the field's word
        self.about: Final = about
        self.required: Final = True
        self.max_bytes: Final = max_bytes
        self._type = type
        self._what = what
        self._decoder = msgspec.json.Decoder(type)

    def forms(self) -> Mapping[str, type | Schema]:
        return {"application/json": self._type}

    def read(self, request: Request) -> T:
        """The decoded document. Raises `RequestError`, which names the field."""
        body = request.body
        check_charset(request.headers)
        if len(body) > self.max_bytes:
            raise RequestError(f"the body is above the limit of {self.max_bytes} bytes", status=413, code="too_large")
        if not body:
            raise RequestError(f"the body is not {self._what}: it is empty")
        try:
            document = self._decoder.decode(body)
        except UNDECODABLE as error:
            raise RequestError(f"the body is not {self._what}: {json_fault(error, body)}") from None
        check_members(body)
        return document
