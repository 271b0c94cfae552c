"""The picture in the README is what the live view of `up` draws."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def text_of(picture: str) -> list[str]:
    """What the picture shows, cell by cell: releases of rich may draw the frame around it differently."""
    return [html.unescape(cell) for cell in re.findall(r"<text [^>]*>([^<]*)</text>", picture)]


def test_picture_of_up_is_what_its_script_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "up.svg"
    subprocess.run([sys.executable, PICTURES / "make_up.py", drawn], check=True, timeout=60)
    kept = (PICTURES / "up.svg").read_text()
    assert text_of(drawn.read_text()) == text_of(kept), "draw it again: python docs/pictures/make_up.py"
    assert "n3 leads now (term 2); before: n1" in " ".join(text_of(kept)).replace("\xa0", " ")


def test_picture_of_up_loads_nothing_and_fits() -> None:
    """Sites that show a README load no fonts for a picture in it; a broken line would not be a command."""
    kept = (PICTURES / "up.svg").read_text()
    assert "url(http" not in kept and "@import" not in kept and "<script" not in kept
    assert "…" not in kept
