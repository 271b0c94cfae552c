"""Removal of secrets from texts, twice: those that are known, wherever they stand, and all that looks like one."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from syncline.errors import ConfigError
from syncline.node.secret_file import parse_secrets

__all__ = ["REMOVED", "Redactor", "is_secret_name"]

REMOVED: Final = "[removed]"

SHORTEST: Final = 4
"""Characters of a known secret. A shorter one would be replaced inside ordinary words."""

_NAMES: Final = (
    r"secret|password|passwd|pwd|passphrase|token|authorization|credential|cookie"
    r"|(?:private|api|access|account)[_-]?key"
)
_SECRET_NAME: Final = re.compile(rf"{_NAMES}|(?:^|_)pw$", re.IGNORECASE)
_PLACE_NAME: Final = re.compile(r"_(file|dir|path|ttl|days)$", re.IGNORECASE)
"""Names of settings that say where a secret is, and not what it is."""

_PEM: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SCHEME: Final = re.compile(r"\b(bearer|basic)(\s+)[A-Za-z0-9+/=._~-]{4,}", re.IGNORECASE)
_PEM_END: Final = re.compile(r"\A[A-Za-z0-9+/=\s]*-----END [A-Z ]*PRIVATE KEY-----")
"""The end of a log may begin in the middle of a key."""
_NAMED: Final = re.compile(
    rf"""((?:{_NAMES})[\w-]{{0,40}})        # the name, to its end
    (\\{{0,4}}["']?\s{{0,20}}[:=]\s{{0,20}})  # quotes may be escaped, as JSON in JSON is
    (\\{{1,4}}".*?\\{{1,4}}"
    |"(?:[^"\\\n]|\\.)*"
    |'(?:[^'\\\n]|\\.|'')*'
    |\[[^\]]*\]
    |[^\s,;}}&]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_LINE: Final = re.compile(r"(cookie:\s)[^\n\"']+|((?:password|passphrase|authorization):\s)[^\n,;}\"']+", re.IGNORECASE)
"""Fields of a header, and what people write: several words."""
_USER_INFO: Final = re.compile(r"://[^\s\"'<>]{1,512}@")
"""With all that stands before the last `@`: passwords have slashes, and `@`, too."""
_SHAPES: Final = re.compile(
    r"\beyJ[\w-]{8,2000}\.[\w-]{8,2000}(?:\.[\w-]{0,2000})?"  # JSON Web Tokens
    r"|\bgh[a-z]_[A-Za-z0-9]{20,255}|\bxox[a-z]-[\w-]{10,255}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\$(?:scrypt|argon2\w{0,2}|pbkdf2[\w-]{0,20}|2[abxy]|[156])\$[^\s\"']{1,500}"  # hashes of passwords
)
_LONG_HEX: Final = re.compile(r"[0-9a-fA-F]{48,}")
"""Cluster secrets as `syncline secret new` makes them. Ids have 16 digits, digests of the state 32."""
_TOKEN: Final = re.compile(r"\bsyncline_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
"""A token of a user (`server.auth.tokens`)."""


class Redactor:
    """Removes secrets. `known`: their texts; each is found in its other spellings, too."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        for text in known:
            self.add(text)

    def add(self, text: str) -> None:
        """Know a secret: a line as it stands in a file, or several."""
        for line in text.splitlines():
            word = line.strip()
            if not word or word.startswith("#"):
                continue
            self._add(word)
            try:
                [raw, *_] = parse_secrets(word, "a secret")
            except ConfigError:
                raw = word.encode("utf-8", "surrogateescape")
            encoded, for_urls = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
            for spelling in (
                raw.hex(),
                raw.hex().upper(),
                encoded,
                encoded.rstrip("="),
                for_urls,
                for_urls.rstrip("="),
                quote(raw, safe=""),
                json.dumps(word)[1:-1],
            ):
                self._add(spelling)

    def _add(self, word: str) -> None:
        if len(word) >= SHORTEST:
            self._known.add(word)

    def text(self, text: str) -> str:
        """The text without secrets."""
        for word in sorted(self._known, key=len, reverse=True):
            text = text.replace(word, REMOVED)
        text = _PEM_END.sub(REMOVED, _PEM.sub(REMOVED, text))
        text = _LINE.sub(rf"\1\2{REMOVED}", text)
        text = _SCHEME.sub(rf"\1\2{REMOVED}", text)
        text = _NAMED.sub(_without_value, text)
        text = _USER_INFO.sub(f"://{REMOVED}@", text)
        text = _SHAPES.sub(REMOVED, text)
        text = _TOKEN.sub(REMOVED, text)
        return _LONG_HEX.sub(REMOVED, text)

    def settings(self, values: Mapping[str, object]) -> dict[str, object]:
        """Settings without the values of those that are secrets, at any depth."""
        return {name: REMOVED if is_secret_name(name) else self._value(value) for name, value in values.items()}

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return self.settings(value)
        if isinstance(value, list):
            return [self._value(one) for one in value]
        return value


def _without_value(found: re.Match[str]) -> str:
    """The name of a secret, and no value; quotes stay, so that JSON stays JSON."""
    name, between, value = found[1], found[2], found[3]
    if _PLACE_NAME.search(name):
        return found[0]
    if value[0] in "\"'":
        return f"{name}{between}{value[0]}{REMOVED}{value[0]}"
    if value[0] == "\\":
        mark = value[: value.index('"') + 1]
        return f"{name}{between}{mark}{REMOVED}{mark}"
    if value == REMOVED:
        return found[0]
    if between[0] == '"':  # JSON has no bare words
        return f'{name}{between}"{REMOVED}"'
    return f"{name}{between}{REMOVED}"


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name is a secret itself."""
    return _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None
