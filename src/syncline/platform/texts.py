"""Texts of the system as JSON, and errors as text. A path need not be UTF-8; Python represents its other bytes as lone
surrogates.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["counted", "encode_exact_json", "encode_json", "escape_controls", "named_error", "printable"]


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its word: "1 key", "2 keys". `many` is the plural if it is not `one` with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """`text` with what is not UTF-8 escaped, such as `d\\\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def escape_controls(text: str) -> str:
    """`text` with escapes, as in JSON, for what a terminal obeys: controls, C1 too, and marks of direction.

    A JSON document on one line stays the same document.
    """
    return text if text.isprintable() else "".join(map(_without_control, text))


def _without_control(letter: str) -> str:
    if letter.isprintable() or ord(letter) > 0xFFFF:  # no terminal obeys one of those
        return letter
    return f"\\u{ord(letter):04x}"


def named_error(error: BaseException) -> str:
    """An exception as its class and its text; the class alone if it has no text, as a MemoryError."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def encode_json(value: object) -> bytes:
    """`value` as JSON, by msgspec; texts that are not UTF-8 as `printable` shows them."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_printable_in(msgspec.to_builtins(value)))


def encode_exact_json(value: object) -> bytes:
    """`value` as JSON, by msgspec.

    Raises TypeError for what JSON can't carry. Not-a-number and infinity are among it: msgspec writes `null` for them,
    and a reader would get another value than was written.
    """
    try:
        body = msgspec.json.encode(value)
    except (ValueError, RecursionError, BufferError) as error:
        raise TypeError(str(error)) from error
    if b"null" in body and _is_not_finite(msgspec.to_builtins(value)):
        raise TypeError("JSON has no not-a-number and no infinity")
    return body


def _is_not_finite(value: object) -> bool:
    """Whether a number in it is not finite."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_is_not_finite, value.values()))
    return isinstance(value, list | tuple) and any(map(_is_not_finite, value))


def _printable_in(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable_in(key): _printable_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable_in(item) for item in value]
    return value
