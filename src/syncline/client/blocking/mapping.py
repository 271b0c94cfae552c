"""The blocking face of a live mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.portal import HeldObject, Portal
from syncline.client.coordination.mapping import LiveMapping, MappingChange

__all__ = ["BlockingMapping"]


class BlockingMapping(HeldObject[LiveMapping], Mapping[str, bytes]):
    """A local copy of the keys below a prefix, as `LiveMapping`. `Client.mapping` makes it.

        with kv.mapping("config/") as config:
            config.set("mode", "blue")
            print(config["mode"])

    Any thread may read it, without a request. Two reads may show two revisions; `snapshot` shows one.
    """

    def __init__(self, portal: Portal, mapping: LiveMapping) -> None:
        super().__init__(portal, mapping, "the mapping")
        self._block = portal.scope(lambda: mapping, "the mapping")

    def __enter__(self) -> Self:
        self._here()
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.end(error)

    @property
    def revision(self) -> int:
        """The revision of the last change that it shows. It never falls."""
        return self._here().revision

    def __getitem__(self, key: str) -> bytes:
        return self._here()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._here())

    def __len__(self) -> int:
        return len(self._here())

    def snapshot(self) -> dict[str, bytes]:
        """All keys and values of one revision: a copy that does not change.

            print(config.snapshot())

        Its errors are those of `LiveMapping.snapshot`.
        """
        return self._here().snapshot()

    def set(self, key: str, value: bytes | str, *, timeout: float | None = None) -> int:
        """Write a key, and wait until this mapping shows it. Returns the revision.

            config.set("mode", "blue")

        Its arguments and errors are those of `LiveMapping.set`.
        """
        return self._call(lambda mapping: mapping.set(key, value, timeout=timeout))

    def delete(self, key: str, *, timeout: float | None = None) -> bool:
        """Delete a key, and wait until this mapping shows that.

            config.delete("mode")

        Its arguments and errors are those of `LiveMapping.delete`.
        """
        return self._call(lambda mapping: mapping.delete(key, timeout=timeout))

    def changed(self, *, timeout: float | None = None) -> MappingChange:
        """Wait until something has changed since the last call of it; return that.

            print(config.changed(timeout=5.0).items)

        Its arguments and errors are those of `LiveMapping.changed`.
        """
        return self._call(lambda mapping: mapping.changed(timeout=timeout))

    def changes(self) -> PortalIterator[MappingChange]:
        """The changes from now on. A slow reader misses states in between, never the newest one.

            for change in config.changes():
                print(change.items)

        Its errors are those of `LiveMapping.changes`. Close it, or leave it to the garbage collector.
        """
        mapping = self._here()
        return self._portal.iterate(mapping.changes, ahead=1)

    def refresh(self, *, timeout: float | None = None) -> int:
        """Bring the mapping up to the present by a linearizable read.

            config.refresh()

        Its arguments and errors are those of `LiveMapping.refresh`.
        """
        return self._call(lambda mapping: mapping.refresh(timeout=timeout))
