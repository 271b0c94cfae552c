"""A whole listing at one revision, as newline-delimited JSON: `GET /keys` with `Accept: application/x-ndjson`.

Each line is a key, as in a page. The last one is `{"end": {"revision": N, "keys": M}}`; without it the listing is not
complete. If the revision is compacted meanwhile, the last line is `{"error": …}` instead. The listing is made piece by
piece while the client reads: it takes no more memory than a piece, and writes go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from syncline.client.schemas import ErrorAnswer
from syncline.errors import Rejected
from syncline.kv.records import RangePage
from syncline.kv.store import KeyStore, prefix_end
from syncline.server.api.errors import operation_error
from syncline.server.api.json_bytes import item_of
from syncline.server.http.limits import KIB
from syncline.server.http.media_types import is_preferred

__all__ = ["NDJSON", "WholeListing", "accepts_ndjson"]

NDJSON: Final = b"Content-Type: application/x-ndjson\r\n"
MEDIA_TYPE: Final = b"application/x-ndjson"

PIECE_KEYS: Final = 256
"""Keys of one piece: about a millisecond of encoding."""
PIECE_BYTES: Final = 32 * KIB
"""Keys and values of one piece. One larger record is a piece of its own."""

_encoder: Final = msgspec.json.Encoder()


def accepts_ndjson(accept: bytes, usual: bytes) -> bool:
    """Whether an `Accept` field asks for lines of JSON, in place of the usual media type."""
    return is_preferred(accept, MEDIA_TYPE, usual)


class WholeListing(msgspec.Struct, frozen=True):
    """What one request lists, and the revision at which it does. `limit` 0: all keys."""

    store: Callable[[], KeyStore]
    """The store of the moment: it may be replaced by an installed snapshot."""
    revision: int
    prefix: bytes
    after: bytes | None
    limit: int
    reverse: bool
    values: str
    mount: str

    def first_page(self) -> RangePage:
        """The keys of the first piece. Raises `Rejected` if the revision was compacted."""
        return self._page(self.after, self.limit)

    def lines(self, page: RangePage) -> Iterator[bytes]:
        """The lines of the whole listing, from its first page on, in pieces."""
        sent = 0
        try:
            while True:
                sent += len(page.items)
                if page.items:
                    items = [item_of(record, values=self.values, mount=self.mount) for record in page.items]
                    yield _encoder.encode_lines(items)
                if page.after is None or (self.limit and sent >= self.limit):
                    break
                page = self._page(page.after, self.limit - sent if self.limit else 0)
        except Rejected as refusal:
            yield _encoder.encode(ErrorAnswer(operation_error(refusal)[1])) + b"\n"
        else:
            yield _encoder.encode({"end": {"revision": self.revision, "keys": sent}}) + b"\n"

    def _page(self, after: bytes | None, left: int) -> RangePage:
        limit = min(left, PIECE_KEYS) if left else PIECE_KEYS
        return self.store().range(
            self.prefix,
            prefix_end(self.prefix),
            limit=limit,
            after=after,
            reverse=self.reverse,
            keys_only=False,
            max_bytes=PIECE_BYTES,
            revision=self.revision,
        )
