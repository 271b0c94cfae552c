"""Print the quick test files that belong to the files changed since a commit: `python tests/changed.py main`.

A test file belongs to a change if it was changed itself, or if its name holds the name of a changed module
(`node/applier.py` and `test_node_applier.py`), or of the inner folder that the module is in (`storage/wal/frame.py` and
`test_wal.py`). Only unit and conformance tests are printed: the others take minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("tests/unit", "tests/conformance")


def changed_files(base: str, root: Path) -> list[str]:
    """Paths, relative to the root, that differ from `base` or are not tracked yet.

    Raises:
        SystemExit: `base` names no commit.
    """
    commands = (["git", "diff", "--name-only", base, "--"], ["git", "ls-files", "--others", "--exclude-standard"])
    found: set[str] = set()
    for command in commands:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"changed.py: {done.stderr.strip()}; choose a commit with: make quick BASE=HEAD")
        found.update(done.stdout.split())
    return sorted(found)


def files_for(changed: list[str], root: Path) -> list[str]:
    """Quick test files that belong to the changed files, in order, each once."""
    modules = {word for name in changed if name.startswith("src/") and name.endswith(".py") for word in _words(name)}
    return [
        name
        for folder in QUICK
        for path in sorted((root / folder).glob("test_*.py"))
        if (name := str(path.relative_to(root))) in changed
        or any(f"_{module}_" in f"{path.stem}_" for module in modules)
    ]


def _words(name: str) -> list[str]:
    """Words for which test files of a module are named: its own name, and that of its inner folder."""
    folders = Path(name).parts[3:-1]  # below src/syncline/FLOOR
    return [Path(name).stem, *folders]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/changed.py COMMIT")
    print(*files_for(changed_files(sys.argv[1], ROOT), ROOT))
