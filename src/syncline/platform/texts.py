"""Texts of the system as JSON. A path need not be UTF-8; Python represents its other bytes as lone surrogates."""

from __future__ import annotations

import msgspec

__all__ = ["encode_json", "printable"]


def printable(text: str) -> str:
    """`text` with what is not UTF-8 escaped, such as `d\\\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def encode_json(value: object) -> bytes:
    """`value` as JSON, by msgspec; texts that are not UTF-8 as `printable` shows them."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_printable_in(msgspec.to_builtins(value)))


def _printable_in(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable_in(key): _printable_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable_in(item) for item in value]
    return value
