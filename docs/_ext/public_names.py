"""The public names of the package, and which of them no page of `docs/api` has yet."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Final

__all__ = ["entries_of", "public_names", "without_page"]

MODULES: Final = (
    "syncline",
    "syncline.client",
    "syncline.blocking",
    "syncline.machines",
    "syncline.server",
    "syncline.testing",
)
ENTRY: Final = re.compile(r"^\.\. auto(?:class|function|data):: (\S+)$", re.MULTILINE)


def public_names() -> list[str]:
    """Each name of each module's `__all__`, with the module."""
    names = [f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__]
    return [name for name in names if not name.endswith("__version__")]


def value_of(name: str) -> object:
    """What a public name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def shown(folder: Path) -> set[str]:
    """The names that the pages of a folder have."""
    return {name for page in folder.glob("*.md") for name in ENTRY.findall(page.read_text())}


def without_page(folder: Path) -> list[str]:
    """Names that no page has. One that two modules export may stand under either."""
    pages = shown(folder)
    classes = {id(value) for name in pages if isinstance(value := value_of(name), type)}
    found: list[str] = []
    for name in public_names():
        value = value_of(name)
        if name not in pages and id(value) not in classes:
            classes.add(id(value) if isinstance(value, type) else 0)
            found.append(name)
    return found


def entries_of(names: list[str]) -> str:
    """The entries of these names, as a part of a page."""
    if not names:
        return ""
    kinds = [f".. auto{_kind_of(value_of(name))}:: {name}\n" for name in names]
    return "\n".join(["## Further names", "", "```{eval-rst}", *kinds, "```", ""])


def _kind_of(value: object) -> str:
    if isinstance(value, type):
        return "class"
    return "function" if inspect.isroutine(value) else "data"
