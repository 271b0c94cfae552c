"""The texts of tokens: random, and recognised by a hash. The store never holds the text."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from syncline.kv.auth.commands import TOKEN_ID_BYTES
from syncline.platform.entropy import Entropy

__all__ = ["TOKEN_PREFIX", "hash_of_token", "id_of_token", "new_token"]

TOKEN_PREFIX: Final = "syncline_"  # noqa: S105 - the beginning of each token
"""So that a search for leaked secrets finds it."""

SECRET_BYTES: Final = 32
_TOKEN: Final = re.compile(rb"syncline_[A-Za-z0-9_-]{43}")


def new_token(entropy: Entropy) -> str:
    """The text of a new token: 256 random bits."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(entropy(SECRET_BYTES)).rstrip(b"=").decode()


def hash_of_token(text: bytes) -> bytes | None:
    """The hash of a token's text; None if it is no token."""
    return hashlib.sha256(text).digest() if _TOKEN.fullmatch(text) else None


def id_of_token(hashed: bytes) -> bytes:
    """The id of a token, by its hash: it tells nothing of the text."""
    return hashlib.sha256(hashed).digest()[:TOKEN_ID_BYTES]
