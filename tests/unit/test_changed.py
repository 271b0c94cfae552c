"""The choice of tests for `make quick`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.changed import changed_files, files_for


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    unit = [f"tests/unit/test_{name}.py" for name in ("node_applier", "app", "wal")]
    for name in (*unit, "tests/conformance/test_traces.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_changed_module_names_its_test_files(repository: Path) -> None:
    assert files_for(["src/syncline/node/applier.py"], repository) == ["tests/unit/test_node_applier.py"]


def test_changed_module_does_not_match_a_part_of_a_word(repository: Path) -> None:
    assert files_for(["src/syncline/server/app.py"], repository) == ["tests/unit/test_app.py"]


def test_changed_module_in_a_folder_names_the_tests_of_the_folder(repository: Path) -> None:
    assert files_for(["src/syncline/storage/wal/frame.py"], repository) == ["tests/unit/test_wal.py"]


def test_changed_package_head_names_no_test_files(repository: Path) -> None:
    assert files_for(["src/syncline/node/__init__.py"], repository) == []


def test_changed_test_file_names_itself(repository: Path) -> None:
    changed = ["tests/conformance/test_traces.py", "tests/unit/test_wal.py"]
    assert sorted(files_for(changed, repository)) == changed


def test_changed_files_include_edited_and_untracked_ones(repository: Path) -> None:
    (repository / "tests/unit/test_wal.py").write_text("# edited\n")
    (repository / "src").mkdir()
    (repository / "src/new.py").write_text("\n")
    assert changed_files("HEAD", repository) == ["src/new.py", "tests/unit/test_wal.py"]


def test_changed_files_since_an_unknown_commit_end_with_advice(repository: Path) -> None:
    with pytest.raises(SystemExit, match="make quick BASE=HEAD"):
        changed_files("no-such-branch", repository)
