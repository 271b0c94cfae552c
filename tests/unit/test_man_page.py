"""The manual page is the one that the commands make now, and man(1) can print it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from syncline.cli import exits

MAN = Path(__file__).resolve().parents[2] / "docs" / "man"


@pytest.fixture(scope="module")
def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_man", MAN / "make_man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_man_page_is_current(maker: Any) -> None:
    assert (MAN / "syncline.1").read_text() == maker.page(), "run: make man"


def test_man_page_has_all_statuses(maker: Any) -> None:
    assert set(maker.STATUSES) == {0} | {value for name, value in vars(exits).items() if name.startswith("EXIT_")}


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_man_page_is_printed_without_warnings() -> None:
    command = ["groff", "-man", "-ww", "-Tutf8", "-z", str(MAN / "syncline.1")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30.0)
    assert (ran.returncode, ran.stderr) == (0, "")
