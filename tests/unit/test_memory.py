"""How much memory a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncline.platform.memory import memory_bytes

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def found(path: Path, own: str, limits: dict[str, str]) -> int:
    for name, text in limits.items():
        file = path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (path / "own").write_text(own)
    return memory_bytes(str(path / "cgroup"), str(path / "own"))


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {}, PHYSICAL),
        ("0::/\n", {"memory.max": "max\n"}, PHYSICAL),
        ("0::/\n", {"memory.max": "1000000\n"}, 1_000_000),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "2000000\n"}, 2_000_000),
        ("1:x:/y\n0::/a/b\n", {"a/b/memory.max": "1000\n", "a/memory.max": "2000000\n"}, 1000),
        ("5:memory:/x\n", {"memory/memory.limit_in_bytes": "3000000\n"}, 3_000_000),
        ("5:memory:/x\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, PHYSICAL),
        ("0::/../../outside\n", {"memory.max": "rubbish"}, PHYSICAL),
        ("0::/a\n", {"a/memory.max": "99999999999999999\n"}, PHYSICAL),
    ],
)
def test_memory_is_the_least_of_machine_and_groups(
    tmp_path: Path, own: str, limits: dict[str, str], expected: int
) -> None:
    assert found(tmp_path, own, limits) == expected


def test_memory_without_control_groups_is_the_machines(tmp_path: Path) -> None:
    assert memory_bytes(str(tmp_path / "none"), str(tmp_path / "nothing")) == PHYSICAL
