"""JSON documents of requests: their character set, and that no object has one member twice.

Decoders take the last of two members with one name; a proxy or a reviewer may have read the first. So a transaction
with two `compare` members would run without the guard of the first one (RFC 8259, 4, leaves it open).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from syncline.decoding import UNDECODABLE
from syncline.server.api.errors import RequestError

__all__ = ["check_charset", "check_members"]

_CHARSET: Final = re.compile(rb";\s*charset\s*=\s*\"?([^\s\";]*)", re.IGNORECASE)
_UTF8: Final = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})


def check_charset(headers: Mapping[bytes, bytes]) -> None:
    """Raise `RequestError` if the body is announced in another encoding than that of JSON, which is UTF-8."""
    found = _CHARSET.search(headers.get(b"content-type", b""))
    if found is not None and found[1].lower() not in _UTF8:
        shown = found[1][:40].decode("ascii", "replace")
        raise RequestError(
            f"the body is announced as {shown}; JSON is read as UTF-8 alone", status=415, code="unsupported_media_type"
        )


def check_members(document: bytes) -> None:
    """Raise `RequestError` if an object of a JSON document, already found to be one, has one member twice."""
    if not _may_repeat(document):
        return
    try:
        _decoder.decode(document.decode())
    except (RecursionError, ValueError) as error:  # the first decoder takes a little more than this one
        raise RequestError(f"the body is not JSON: {error}") from None


def _may_repeat(document: bytes) -> bool:
    """Whether members may have been lost when the document was decoded: then it has more quotes than what was read.

    A document with an escape has quotes that begin or end nothing; it is looked at in full.
    """
    if b"\\" in document:
        return True
    try:
        read = msgspec.json.encode(msgspec.json.decode(document))
    except UNDECODABLE:
        return True
    return b"\\" in read or read.count(b'"') != document.count(b'"')


def _object(members: list[tuple[str, object]]) -> None:
    if len(members) > 1 and len(dict(members)) < len(members):
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise RequestError(f"the member {name[:80]!r} is given twice in one object; nothing was done")
            seen.add(name)


_decoder: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=len, parse_float=len)
"""Numbers are of no interest here, and long ones take long to parse."""
