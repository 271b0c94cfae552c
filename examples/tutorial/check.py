"""Stage 6: does the store keep the contract of replication?

python -m examples.tutorial.check
"""

from __future__ import annotations

import atexit
import tempfile

from msgspec import msgpack

from examples.tutorial.store import Add, Delete, Set, Store
from syncline.testing import check_fsm

COMMANDS = [
    *map(msgpack.encode, [Set("a", b"1"), Add("a"), Set("b", b"x"), Add("b"), Delete("a"), Add("a", 5), Set("b", b"")]),
    b"nonsense",  # commands that can't be read are commands, too
]


FOLDERS = tempfile.TemporaryDirectory(prefix="tutorial-check-")
atexit.register(FOLDERS.cleanup)  # in each process that imports this


def new_store() -> Store:
    return Store(tempfile.mkdtemp(dir=FOLDERS.name))


if __name__ == "__main__":
    check_fsm(new_store, COMMANDS)
    print("the store keeps the contract")
