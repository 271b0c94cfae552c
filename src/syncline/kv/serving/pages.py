"""Pages of a listing: how much one holds, and the text that continues behind it."""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from syncline.kv.limits import MAX_RANGE_ITEMS
from syncline.kv.records import KeyRecord, RangePage
from syncline.kv.serving.key_limits import bad_request
from syncline.kv.store import KeyStore, prefix_end

__all__ = ["MAX_LIMIT", "MAX_PAGE_BYTES", "PageWanted", "decode_cursor", "encode_cursor", "page_items"]

MAX_LIMIT: Final = MAX_RANGE_ITEMS
MAX_PAGE_BYTES: Final = 1024 * 1024
"""Keys and values of one page, roughly: some 10 ms of encoding. One larger record is still given, alone."""
CURSOR_MARK: Final = "base64:"
"""The first characters of a cursor for a key that is not text."""

UNBOUNDED: Final = 2**62


class PageWanted(msgspec.Struct, frozen=True):
    """One page that is asked for."""

    prefix: bytes
    after: bytes | None
    """The page begins behind this key."""
    limit: int
    values: bool
    reverse: bool = False
    count_only: bool = False
    revision: int = 0
    """The past revision to read; 0: the present."""

    def read(self, store: KeyStore) -> RangePage:
        """The page. `page_items` cuts it to its size in bytes. Raises `Rejected` (`compacted`)."""
        return store.range(
            self.prefix,
            prefix_end(self.prefix),
            limit=self.limit,
            after=self.after,
            reverse=self.reverse,
            count_only=self.count_only,
            max_bytes=MAX_PAGE_BYTES if self.values else UNBOUNDED,
            revision=self.revision,
        )


def page_items(page: RangePage, *, values: bool) -> tuple[list[KeyRecord], str | None]:
    """As many records as one page holds, and the cursor of the next page; None on the last one."""
    items = _cut(page.items, values=values)
    last = page.after if len(items) == len(page.items) else items[-1].key
    return items, None if last is None else encode_cursor(last)


def _cut(items: list[KeyRecord], *, values: bool) -> list[KeyRecord]:
    """As many items as fit into a page: a key may be in it twice, as itself and in its URL."""
    size_bytes = 0
    for position, record in enumerate(items):
        size_bytes += 2 * len(record.key) + (len(record.value) if values else 0)
        if size_bytes > MAX_PAGE_BYTES and position:
            return items[:position]
    return items


def encode_cursor(key: bytes) -> str:
    """The `after` value that continues behind this key: its text, or base64 if it has none."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = CURSOR_MARK
    if not text.startswith(CURSOR_MARK):
        return text
    return CURSOR_MARK + base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")


def decode_cursor(raw: bytes | None) -> bytes | None:
    """Decode the key of an `after` value, in either form. Raises `RequestFailed` (`bad_request`)."""
    mark = CURSOR_MARK.encode()
    if raw is None or not raw.startswith(mark):
        return raw
    encoded = raw[len(mark) :]
    try:
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise bad_request(
            f"after: what follows {CURSOR_MARK!r} is not base64url; a key of that text takes it"
        ) from None
