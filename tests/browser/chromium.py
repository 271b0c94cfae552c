"""Find the Chromium of the system: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
from typing import Final

__all__ = ["MISSING", "find_chromium"]

NAMES: Final = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

MISSING: Final = (
    "Chromium is not installed (Debian: apt-get install chromium), or not on the PATH: SYNCLINE_CHROMIUM names its"
    " program"
)


def find_chromium() -> str | None:
    """The program; None if there is none."""
    given = os.environ.get("SYNCLINE_CHROMIUM", "")
    if given:
        return shutil.which(given)
    return next((found for name in NAMES if (found := shutil.which(name)) is not None), None)
