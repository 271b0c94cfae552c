"""Type-check the Python of the documentation: `python -m tests.docs_types`, a part of `make verify`.

Each block becomes a module with the line numbers of its page, and mypy checks all of them with the project's settings.
Names that earlier blocks of its page define are imported. A name that none defines is the reader's, and is not checked.
Functions may go without annotations, as pages show them; their bodies are checked all the same. The modules stay, for
pyright, which users' editors run.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.helpers.doc_examples import PYTHON

__all__ = ["check", "modules_of", "write_modules"]

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "build" / "docs_types"

IN_PARTS: Final = {"docs/tutorial.md"}
"""Pages whose blocks do not compile by themselves: other tests find them in files that are checked."""

NAMED: Final = {("docs/testing-your-state-machine.md", 0): "bank"}
"""Blocks that the others of their page import under a name."""

SETTINGS: Final = """
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# pyright: basic, reportUndefinedVariable=false, reportMissingImports=false, reportMissingModuleSource=false
"""
"""They stand at the end, where they move no line."""

AWAITS: Final = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def modules_of(page: str, text: str) -> Iterator[tuple[str, str]]:
    """The modules of a page: their names and their source."""
    start = re.sub(r"\W", "_", page.removesuffix(".md"))
    where: dict[str, str] = {}
    for at, found in enumerate(PYTHON.finditer(text)):
        code, line = found.group(1), text.count("\n", 0, found.start()) + 1  # the line of the fence
        module = NAMED.get((page, at), f"{start}_{at}")
        tree = compile(code, page, "exec", ast.PyCF_ONLY_AST | AWAITS, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        own = {name: f"from {module} import {name}" for name in _defined(tree)} | dict(_imported(tree))
        imports = "; ".join(where[name] for name in sorted(_used(tree) - own.keys()) if name in where)
        opening = ""
        if _awaits(code):
            opening, code = "async def program() -> None:", "".join(f"    {one}\n" for one in code.splitlines())
        assert line > 1, f"{page} begins with a block: there is no room for the imports"
        yield module, "\n".join([imports, *[""] * (line - 2), opening, code, SETTINGS])
        where |= own if not opening else {}


def _defined(tree: ast.Module) -> Iterator[str]:
    """Functions, classes and variables of a block."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        else:
            yield from (
                one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
            )


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What a block imports, and how: another block that uses it imports it itself."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            for one in node.names:
                text = f"{start}import {one.name}" + (f" as {one.asname}" if one.asname else "")
                yield (one.asname or one.name).partition(".")[0], text


def _used(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _awaits(code: str) -> bool:
    """Whether it stands in a coroutine of the reader's."""
    try:
        compile(code, "block", "exec", dont_inherit=True)
    except SyntaxError:
        return True
    return False


def write_modules(folder: Path) -> dict[str, str]:
    """Write the modules of all pages; returns the page of each module."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages: dict[str, str] = {}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        page = str(path.relative_to(ROOT))
        if page in IN_PARTS:
            continue
        for module, code in modules_of(page, path.read_text()):
            (folder / f"{module}.py").write_text(code)
            pages[module] = page
    return pages


def check() -> int:
    """Check all pages. Returns the status of mypy; its lines name the pages."""
    from mypy import api

    os.chdir(ROOT)
    os.environ["MYPYPATH"] = str(FOLDER)
    pages = write_modules(FOLDER)
    output, errors, status = api.run([str(FOLDER)])
    named = re.sub(r"^\S*?(\w+)\.py:", lambda found: f"{pages.get(found[1], found[1])}:", output, flags=re.MULTILINE)
    sys.stdout.write(named + errors)
    return status


if __name__ == "__main__":
    sys.exit(check())
