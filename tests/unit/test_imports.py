"""No module of `src` imports itself by a detour, not even for its annotations: what a reader opens has a beginning."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).resolve().parents[2] / "src"


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, name: str, modules: dict[str, Path]) -> Iterator[str]:
    """The modules that a module names in its imports: at its head, under `if TYPE_CHECKING`, in functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for one in node.names:  # a module in a package, or a name in a module
                yield f"{base}.{one.name}" if f"{base}.{one.name}" in modules else base


def circle(root: Path) -> list[str]:
    """The modules below `root` of one circle of imports, the first one twice; empty: there is none."""
    modules = {name_of(path, root): path for path in sorted(root.rglob("*.py"))}
    graph = {
        name: [other for other in imported(path, name, modules) if other in modules] for name, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # the sorter names each module before the one that imports it
    return []


def test_imports_have_no_circle() -> None:
    """Each module can be read after those that it imports."""
    found = circle(SOURCE)
    assert found == [], "these modules import each other: " + " -> ".join(found)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from box import second", "from box import first"),
        ("import box.second", "import box.first"),
        ("from . import second", "from .first import name"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from box import second", "import box.first"),
        ("def f():\n    from box.second import name", "from box.first import name"),
    ],
)
def test_imports_circle_of_two_modules_is_found(tmp_path: Path, first: str, second: str) -> None:
    """However a module is imported, and whenever."""
    box = tmp_path / "box"
    box.mkdir()
    (box / "__init__.py").write_text("")
    (box / "first.py").write_text(first)
    (box / "second.py").write_text(second)
    assert sorted(set(circle(tmp_path))) == ["box.first", "box.second"]


def test_imports_circle_is_shown_in_order_of_imports(tmp_path: Path) -> None:
    """The text leads from one module to the next one that it imports."""
    for name, other in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        (tmp_path / f"{name}.py").write_text(f"import {other}")
    found = circle(tmp_path)
    assert list(pairwise(found)) in (
        [("a", "b"), ("b", "c"), ("c", "a")],
        [("b", "c"), ("c", "a"), ("a", "b")],
        [("c", "a"), ("a", "b"), ("b", "c")],
    )


def test_imports_of_a_name_in_a_package_count_as_the_package(tmp_path: Path) -> None:
    """A package that gathers names of its modules is no circle, unless one of them imports the package."""
    box = tmp_path / "box"
    box.mkdir()
    (box / "__init__.py").write_text("from box.part import name")
    (box / "part.py").write_text("name = 1")
    assert circle(tmp_path) == []
    (box / "part.py").write_text("def f():\n    from box import name")
    assert sorted(set(circle(tmp_path))) == ["box", "box.part"]
