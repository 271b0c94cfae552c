"""The glossary names files and symbols that exist, and the paper's RPCs can be found by their names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "syncline"
PLACE = re.compile(r"`([\w/]+\.py)`(?: `([\w.]+)`)?")
LEAST_TERMS_OF_THE_PAPER = 40


def rows(text: str) -> list[tuple[str, str]]:
    """Term and place of each row of the tables in a text."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [(row[0], row[2]) for row in cells if row[0] not in {"term", "---"}]


def symbols(path: Path) -> set[str]:
    """Functions and classes of a module, and `Class.name` for methods and annotated or assigned names of a class."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in _names(node)}
    return found


def _names(owner: ast.ClassDef) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(owner):
        match node:
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name) | ast.Attribute(attr=name)):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
                found |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
            case _:
                continue
    return found


GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
PAPER = GLOSSARY[GLOSSARY.index("## Words of the paper") : GLOSSARY.index("## Words of this project")]


@pytest.mark.parametrize(("term", "place"), rows(GLOSSARY))
def test_glossary_term_names_a_file_and_symbol_that_exist(term: str, place: str) -> None:
    named = PLACE.findall(place)
    assert named, f"{term!r} names no place in the code"
    for file, symbol in named:
        path = SOURCE / file
        if not symbol:
            assert path.exists() or path.with_suffix("").is_dir(), f"{term!r}: {file} does not exist"
            continue
        assert path.exists(), f"{term!r}: {file} does not exist"
        assert symbol in symbols(path), f"{term!r}: {file} has no {symbol}"


def test_glossary_has_the_terms_of_the_paper_once() -> None:
    terms = [term for term, _ in rows(PAPER)]
    assert len(terms) >= LEAST_TERMS_OF_THE_PAPER
    assert len(set(terms)) == len(terms)


@pytest.mark.parametrize("rpc", ["AppendEntries", "RequestVote", "InstallSnapshot", "TimeoutNow", "ReadIndex"])
def test_consensus_source_names_the_rpcs_of_the_paper(rpc: str) -> None:
    named = [path.name for path in (SOURCE / "consensus").glob("*.py") if rpc in path.read_text()]
    assert "types.py" in named
    assert len(named) > 1, f"{rpc} stands in no file but types.py"
