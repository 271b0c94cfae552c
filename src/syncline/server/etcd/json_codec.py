"""Messages as JSON, as etcd's gateway reads and writes them (the rules of proto3's JSON form, with the original names).

    decode("etcdserverpb.PutRequest", b'{"key":"YQ==","lease":"7"}')      # {"key": b"a", "lease": 7}
    encode("etcdserverpb.PutResponse", {"header": {"revision": 5}})      # b'{"header":{"revision":"5"}}'

Requests: names are in snake_case or camelCase. 64-bit numbers are a text or a number, enumerations a name or a number.
`null` is the default. Unknown fields are ignored. Bytes are standard, padded base64.
Answers: 64-bit numbers are texts, and enumerations names. Defaults are left out.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from syncline.decoding import UNDECODABLE, json_fault
from syncline.server.etcd.errors import INVALID_ARGUMENT, EtcdError
from syncline.server.etcd.messages import ENUMS, MESSAGES, Message, MessageField

__all__ = ["decode", "decode_stream", "encode"]

MAX_DEPTH: Final = 16
"""Messages inside one another: a transaction within transactions needs two for each level, and the store allows 4."""

MAX_PARTS: Final = 15_000
"""Commas in one body, so fields and items of arrays: they are read in one turn of the event loop, 50 ms at most. The
largest transaction that the store takes has a third of it."""

MAX_STREAM_DOCUMENTS: Final = 1000
"""Documents in the body of one streaming request: as many watches as a connection may have."""

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_BOUNDS: Final[dict[str, tuple[int, int]]] = {
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
    "uint32": (0, 2**32 - 1),
    "enum": (-(2**31), 2**31 - 1),
}

_Read: TypeAlias = Callable[[object, str, int], object]
"""Reads one value, which is not null, of the field that is named, at a depth. Raises `EtcdError`."""
_Write: TypeAlias = Callable[[object], object]
"""Makes of one value what msgspec writes as it should stand."""


def decode(name: str, data: bytes) -> Message:
    """Read the message `name` from one JSON document; an empty body is `{}`. Raises `EtcdError` (code 3)."""
    if not data.strip():
        return {}
    _check_parts(data)
    try:
        found = msgspec.json.decode(data)
    except UNDECODABLE as error:
        raise _bad(f"the body is not JSON: {json_fault(error, data)}") from None
    return _message(name, found)


def decode_stream(name: str, data: bytes) -> list[Message]:
    """Read each of the JSON documents in the body of a streaming request. Raises `EtcdError` (code 3)."""
    _check_parts(data)
    try:
        return [_message(name, msgspec.json.decode(data))] if data.strip() else []
    except UNDECODABLE:
        several = data
    try:
        text = several.decode()
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not JSON: {error}") from None
    decoder, place, messages = json.JSONDecoder(), _after_space(text, 0), list[Message]()
    while place < len(text):
        if len(messages) >= MAX_STREAM_DOCUMENTS:
            raise _bad(f"the body has more than {MAX_STREAM_DOCUMENTS} documents")
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _bad(f"the body is not JSON: {error}") from None
        messages.append(_message(name, found))
        place = _after_space(text, place)
    return messages


def encode(name: str, message: Message) -> bytes:
    """Write the message `name` as JSON."""
    return msgspec.json.encode(_written(name, message))


def _check_parts(data: bytes) -> None:
    """Refuse what would take long to read. (base64 has no commas.)"""
    if data.count(b",") > MAX_PARTS:
        raise _bad(f"the body has more than {MAX_PARTS} fields and items")


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    assert found is not None
    return found.end()


def _bad(text: str) -> EtcdError:
    return EtcdError(INVALID_ARGUMENT, text)


# --- reading


def _message(name: str, found: object, depth: int = 1) -> Message:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _bad(f"{name.rpartition('.')[2]} is {_kind(found)}; expected an object")
    if depth > MAX_DEPTH:
        raise _bad(f"messages are nested deeper than {MAX_DEPTH}")
    known = _READERS[name]
    message: Message = {}
    for key, value in found.items():
        if value is None or (field := known.get(key)) is None:
            continue
        field_name, repeated, read = field
        if not repeated:
            message[field_name] = read(value, field_name, depth)
        elif isinstance(value, list):
            message[field_name] = [read(one, field_name, depth) for one in value if one is not None]
        else:
            raise _bad(f"{field_name} is {_kind(value)}; expected an array")
    return message


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "an array"
        case _:
            return "an object"


def _read_bytes(value: object, field: str, depth: int) -> bytes:
    del depth
    if isinstance(value, str):
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError as error:  # not ASCII, or not base64
            raise _bad(f"{field} is not standard, padded base64: {error}") from None
    raise _bad(f"{field} is {_kind(value)}; expected base64 text")


def _read_text(value: object, field: str, depth: int) -> str:
    del depth
    if isinstance(value, str):
        return value
    raise _bad(f"{field} is {_kind(value)}; expected a text")


def _read_bool(value: object, field: str, depth: int) -> bool:
    del depth
    if isinstance(value, bool):
        return value
    raise _bad(f"{field} is {_kind(value)}; expected true or false")


def _integer(kind: str) -> _Read:
    low, high = _BOUNDS[kind]

    def read(value: object, field: str, depth: int) -> int:
        del depth
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _bad(f"{field} is not a whole number")
        if low <= value <= high:
            return value
        raise _bad(f"{field} is out of range: a number from {low} to {high} is accepted")

    return read


def _enum(name: str) -> _Read:
    numbers, integer = ENUMS[name], _integer("enum")

    def read(value: object, field: str, depth: int) -> object:
        if isinstance(value, str):
            number = numbers.get(value)
            if number is None:
                raise _bad(f"{field} has an unknown value {value[:40]!r}; there are {', '.join(numbers)}")
            return number
        return integer(value, field, depth)

    return read


def _reader(field: MessageField) -> _Read:
    match field.type:
        case "bytes":
            return _read_bytes
        case "string":
            return _read_text
        case "bool":
            return _read_bool
        case kind if kind in _BOUNDS:
            return _integer(kind)
        case kind if kind in ENUMS:
            return _enum(kind)
        case kind:
            return lambda value, _, depth: _message(kind, value, depth + 1)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join([part[:1].upper() + part[1:] for part in rest])


def _readers(fields: list[MessageField]) -> dict[str, tuple[str, bool, _Read]]:
    found = {field.name: (field.name, field.repeated, _reader(field)) for field in fields}
    return {_camel(name): one for name, one in found.items()} | found


_READERS: Final = {name: _readers(list(fields.values())) for name, fields in MESSAGES.items()}
"""By message, and by the field's name in either spelling: its name, whether it is repeated, and what reads it."""


# --- writing


def _written(name: str, message: Message) -> dict[str, object]:
    written: dict[str, object] = {}
    for field, repeated, is_message, write in _WRITERS[name]:
        value = message.get(field)
        if value is None or (not value and not is_message):
            continue  # a default is left out; an empty message is not
        if not repeated:
            written[field] = value if write is None else write(value)
        elif value:
            assert isinstance(value, list)
            written[field] = value if write is None else [write(one) for one in value]
    return written


def _writer(field: MessageField) -> _Write | None:
    """What writes a field; None if msgspec writes its values as they are (it writes bytes as base64)."""
    kind = field.type
    if kind in ("int64", "uint64"):
        return "%d".__mod__  # not `str`: a node's id is an int whose text is hexadecimal
    if kind in ENUMS:
        names: dict[object, str] = {number: name for name, number in ENUMS[kind].items()}
        return lambda value: names.get(value, value)
    if kind in MESSAGES:
        return lambda value: _written(kind, value)  # type: ignore[arg-type]  # the table says that it is a message
    return None


_WRITERS: Final = {
    name: [(field.name, field.repeated, field.type in MESSAGES, _writer(field)) for field in fields.values()]
    for name, fields in MESSAGES.items()
}
"""By message, each field in order: its name, whether it is repeated and a message, and what writes it."""
