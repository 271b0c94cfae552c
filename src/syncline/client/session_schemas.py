"""The JSON of `/session`: see `schemas.py`, which has the rules."""

from __future__ import annotations

import msgspec

__all__ = ["SessionEndReply", "SessionReply"]


class SessionReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `POST /session`. `id` is 16 hexadecimal digits; an idle session ends after `ttl_s`."""

    id: str
    ttl_s: float


class SessionEndReply(msgspec.Struct, tag_field="status", tag="success"):
    """The answer of `DELETE /session/{id}`. `ended` is false if there was no such session."""

    ended: bool
