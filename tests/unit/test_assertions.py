"""Each test of this suite can fail: it asserts something, itself or by a helper of the suite."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).resolve().parents[1]
HELPERS = ("helpers/*.py", "simulation/*.py", "chaos/*.py", "mutations/*.py", "conformance/*.py")
"""Where helpers of tests are, beside the file of a test itself."""

WAITS = frozenset({"until", "poll_until", "timeout", "timeout_at", "wait_for", "check_fsm"})
"""Calls that raise if a condition does not come in time, or a contract does not hold."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Seen(NamedTuple):
    """A function of a file."""

    name: str
    line: int
    asserts: bool
    """Whether its own lines assert, raise, expect an error, or wait for a condition."""
    used: frozenset[str]
    """The names of what it calls, and of what it passes to others to call."""


@cache
def functions(path: Path) -> tuple[Seen, ...]:
    """All functions of a file, those within others too."""
    found = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function))
    return tuple(Seen(one.name, one.lineno, asserts(one), frozenset(used(one))) for one in found)


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def asserts(function: Function) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Raise) and node.exc is not None):
            return True
        if isinstance(node, ast.Call) and name_of(node.func) in {"raises", "warns", "fail"} | WAITS:
            return True
    return False


def used(function: Function) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield from map(name_of, (node.func, *node.args, *(keyword.value for keyword in node.keywords)))


def spread(found: frozenset[str], helpers: Iterable[Seen]) -> frozenset[str]:
    """Add the helpers that use one of `found`, directly or by way of others."""
    helpers = list(helpers)
    while more := {one.name for one in helpers if one.name not in found and not found.isdisjoint(one.used)}:
        found |= more
    return found


@cache
def shared() -> frozenset[str]:
    """The shared helpers that assert."""
    places = [path for pattern in HELPERS for path in TESTS.glob(pattern)]
    helpers = [one for path in places for one in functions(path) if not one.name.startswith("test_")]
    return spread(frozenset(one.name for one in helpers if one.asserts), helpers)


def asserting(path: Path) -> frozenset[str]:
    """The helpers that assert, for the tests of a file."""
    own = [one for one in functions(path) if not one.name.startswith("test_")]
    return spread(shared() | {one.name for one in own if one.asserts}, own)


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_tests_of_a_file_assert_something(path: Path) -> None:
    helpers = asserting(path)
    empty = [
        f"{path}:{one.line}: {one.name}"
        for one in functions(path)
        if one.name.startswith("test_") and not one.asserts and helpers.isdisjoint(one.used)
    ]
    assert not empty, f"these pass whatever happens: {empty}"


def test_a_test_that_only_calls_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text(
        "def helper(): assert f()\ndef by_way(): helper()\ndef idle(): f()\n"
        "def test_empty(): idle()\ndef test_full(): by_way()\n"
    )
    with pytest.raises(AssertionError, match=r"test_x.py:4: test_empty'\]"):
        test_tests_of_a_file_assert_something(path)
