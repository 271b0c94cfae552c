"""Bytes in JSON: text if they are UTF-8, else base64 under `<name>_base64`. Requests may use either form."""

from __future__ import annotations

from msgspec import UNSET

from syncline.client.schemas import KeyItem, MaybeBytes, MaybeText, split
from syncline.kv.records import KeyRecord
from syncline.server.api.errors import RequestError
from syncline.server.api.key_query import needs_query
from syncline.server.http.request import encode_percent

__all__ = ["item_of", "key_url", "one_of"]


def one_of(text: MaybeText, encoded: MaybeBytes, name: str, where: str) -> bytes:
    """The bytes of a request's pair of JSON members."""
    if isinstance(text, str) and encoded is UNSET:
        try:
            return text.encode()
        except UnicodeEncodeError:  # a lone surrogate, escaped
            raise RequestError(f"{where}: {name!r} is not text; give bytes as {name}_base64") from None
    if isinstance(encoded, bytes) and text is UNSET:
        return encoded
    raise RequestError(f"{where}: give either {name!r} or '{name}_base64'")


def key_url(key: bytes, mount: str) -> str:
    """The URL of a key, in a form that no client changes; `mount` is the path below which the routes are."""
    path = encode_percent(key)
    if needs_query(path):
        return f"{mount}/key?key={encode_percent(key, safe='')}"
    return f"{mount}/key/{path}"


def item_of(record: KeyRecord, *, values: str, mount: str) -> KeyItem:
    """A record as JSON. `values`: "false" leaves the value out, "base64" never gives it as text. `mount` is as in
    `key_url`."""
    text, encoded = split(record.key)
    item = KeyItem(
        key=text,
        key_base64=encoded,
        url=key_url(record.key, mount),
        mod_revision=record.mod_revision,
        create_revision=record.create_revision,
        version=record.version,
        size_bytes=len(record.value),
    )
    if record.lease:
        item.lease = f"{record.lease:016x}"
    if values == "true":
        item.value, item.value_base64 = split(record.value)
    elif values == "base64":
        item.value_base64 = record.value
    return item
