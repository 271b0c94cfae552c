"""Which watches a key concerns: an index over single keys, prefixes and ranges.

Single keys are in a dictionary. Ranges (a prefix is one) are in a balanced search tree, ordered by their start; each
node knows the greatest end below it. So a key finds its watches in O(log n) for n ranges, and in O(1) if there are only
single keys. Watches of the same range share a node.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["WatchIndex"]

Item = TypeVar("Item", bound=Hashable)


class WatchIndex(Generic[Item]):
    """Items by the range of keys `[start, end)` that they watch; `end` None: to the last key."""

    __slots__ = ("_count", "_keys", "_root")

    def __init__(self) -> None:
        self._keys: dict[bytes, dict[Item, None]] = {}
        self._root: _RangeNode[Item] | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, start: bytes, end: bytes | None, item: Item) -> None:
        """Add an item that is not there."""
        self._count += 1
        if _is_key(start, end):
            self._keys.setdefault(start, {})[item] = None
        else:
            self._root = _added(self._root, start, end, item)

    def remove(self, start: bytes, end: bytes | None, item: Item) -> None:
        """Remove an item that was added with this range."""
        self._count -= 1
        if not _is_key(start, end):
            self._root = _removed(self._root, start, end, item)
            return
        items = self._keys[start]
        del items[item]
        if not items:
            del self._keys[start]

    def at(self, key: bytes) -> list[Item]:
        """The items that watch this key, as a list of its own."""
        found: list[Item] = [*self._keys[key]] if key in self._keys else []
        if self._root is None:
            return found
        stack = [self._root]
        while stack:
            node = stack.pop()
            if node.most is not None and node.most <= key:
                continue  # every range below it ends before the key
            if node.left is not None:
                stack.append(node.left)
            if node.start <= key:
                if node.end is None or key < node.end:
                    found += node.items
                if node.right is not None:
                    stack.append(node.right)
        return found

    def items(self) -> list[Item]:
        """All items."""
        found = [item for items in self._keys.values() for item in items]
        stack = [self._root] if self._root is not None else []
        while stack:
            node = stack.pop()
            found += node.items
            stack += [below for below in (node.left, node.right) if below is not None]
        return found

    def check(self) -> None:
        """Assert the invariants; for tests."""
        assert all(self._keys.values())
        assert len(self.items()) == self._count
        if self._root is not None:
            _check(self._root)


class _RangeNode(Generic[Item]):
    """One range, and the subtree below it. `most`: the greatest end in the subtree; None: the last key."""

    __slots__ = ("end", "height", "items", "left", "most", "right", "start")

    def __init__(self, start: bytes, end: bytes | None, item: Item) -> None:
        self.start = start
        self.end = end
        self.items: dict[Item, None] = {item: None}
        self.left: _RangeNode[Item] | None = None
        self.right: _RangeNode[Item] | None = None
        self.height = 1
        self.most: bytes | None = end


def _is_key(start: bytes, end: bytes | None) -> bool:
    return end is not None and len(end) == len(start) + 1 and end[-1] == 0 and end.startswith(start)


def _is_before(start: bytes, end: bytes | None, node: _RangeNode[Item]) -> bool:
    if start != node.start:
        return start < node.start
    return end is not None and (node.end is None or end < node.end)


def _added(node: _RangeNode[Item] | None, start: bytes, end: bytes | None, item: Item) -> _RangeNode[Item]:
    if node is None:
        return _RangeNode(start, end, item)
    if start == node.start and end == node.end:
        node.items[item] = None
        return node
    if _is_before(start, end, node):
        node.left = _added(node.left, start, end, item)
    else:
        node.right = _added(node.right, start, end, item)
    return _balanced(node)


def _removed(node: _RangeNode[Item] | None, start: bytes, end: bytes | None, item: Item) -> _RangeNode[Item] | None:
    assert node is not None, "the range is not in the index"
    if start == node.start and end == node.end:
        del node.items[item]
        return node if node.items else _joined(node.left, node.right)
    if _is_before(start, end, node):
        node.left = _removed(node.left, start, end, item)
    else:
        node.right = _removed(node.right, start, end, item)
    return _balanced(node)


def _joined(left: _RangeNode[Item] | None, right: _RangeNode[Item] | None) -> _RangeNode[Item] | None:
    """One tree of two, whose heights differ by at most one; all of `left` is before all of `right`."""
    if right is None:
        return left
    first, rest = _without_first(right)
    first.left, first.right = left, rest
    return _balanced(first)


def _without_first(node: _RangeNode[Item]) -> tuple[_RangeNode[Item], _RangeNode[Item] | None]:
    if node.left is None:
        return node, node.right
    first, node.left = _without_first(node.left)
    return first, _balanced(node)


def _balanced(node: _RangeNode[Item]) -> _RangeNode[Item]:
    """The root of this subtree when its two halves, each balanced, differ in height by at most one again."""
    left, right = node.left, node.right
    tilt = _height(left) - _height(right)
    if tilt > 1:
        assert left is not None
        if _height(left.left) < _height(left.right):
            left = node.left = _turned_left(left)
        return _turned_right(node)
    if tilt < -1:
        assert right is not None
        if _height(right.right) < _height(right.left):
            right = node.right = _turned_right(right)
        return _turned_left(node)
    _update(node)
    return node


def _turned_left(node: _RangeNode[Item]) -> _RangeNode[Item]:
    top = node.right
    assert top is not None
    node.right, top.left = top.left, node
    _update(node)
    _update(top)
    return top


def _turned_right(node: _RangeNode[Item]) -> _RangeNode[Item]:
    top = node.left
    assert top is not None
    node.left, top.right = top.right, node
    _update(node)
    _update(top)
    return top


def _height(node: _RangeNode[Item] | None) -> int:
    return 0 if node is None else node.height


def _update(node: _RangeNode[Item]) -> None:
    node.height = 1 + max(_height(node.left), _height(node.right))
    node.most = node.end
    for below in (node.left, node.right):
        if below is not None and node.most is not None and (below.most is None or below.most > node.most):
            node.most = below.most


def _check(node: _RangeNode[Item]) -> None:
    height, most = node.height, node.most
    for below in (node.left, node.right):
        if below is not None:
            _check(below)
            assert _is_before(below.start, below.end, node) is (below is node.left)
    _update(node)
    assert (node.height, node.most) == (height, most)
    assert abs(_height(node.left) - _height(node.right)) <= 1
    assert node.items
