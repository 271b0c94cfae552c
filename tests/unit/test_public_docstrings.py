"""Docstrings of everything that `help()` shows of the public modules: an example or a link to one, and `Raises:`."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.unit.test_public_names import PUBLIC, members

CALLED_BY_SYNCLINE = {
    "ApplyFuture.answered", "ApplyFuture.failed", "ReadFuture.cancel", "SessionFuture.answered", "SessionFuture.failed",
    "Startup.send", "Startup.throw", "Startup.close",
    "Counter.lines", "Gauge.lines", "Histogram.lines", "Instrument.lines", "Family.lines",
    "Site.stopping", "Site.close", "Site.status", "Site.explain", "Site.explain_read",
}  # fmt: skip
"""Methods of public classes that no program calls: the node, the event loop or the server does."""

LINK = re.compile(r"Example: `([\w.]+)`")
"""How a docstring names another one that has the example."""


def functions() -> Iterator[tuple[str, Callable[..., object], type | None]]:
    """All public functions and methods, each once, with the class that defines it."""
    seen: set[object] = set()
    for name, value in PUBLIC.items():
        if not isinstance(value, type):
            if inspect.isfunction(value):
                yield name.rpartition(".")[2], value, None
            continue
        for method, member in members(value):
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(function) and method != "__init__" and function not in seen:
                seen.add(function)
                yield f"{value.__name__}.{method}", function, value


FUNCTIONS = {name: (function, owner) for name, function, owner in functions() if name not in CALLED_BY_SYNCLINE}
CLASSES = {value.__name__: value for value in PUBLIC.values() if isinstance(value, type)}


def text_of(value: object) -> str:
    return inspect.getdoc(value) or ""


def example_in(text: str) -> str:
    """The indented blocks of a docstring, but for its lists of errors."""
    blocks = [part for part in text.split("\n\n") if all(line.startswith("    ") for line in part.splitlines())]
    return textwrap.dedent("\n\n".join(blocks))


def has_example(name: str) -> bool:
    """Whether a function shows how it is called: in its docstring, in that of its class, or by a link.

    The docstring of a protocol shows how a program implements it.
    """
    function, owner = FUNCTIONS[name]
    own, classes = text_of(function), [text_of(base) for base in owner.__mro__] if owner is not None else []
    if example_in(own):
        return True
    if getattr(owner, "_is_protocol", False) and example_in(text_of(owner)):
        return True  # how a program replaces the whole
    called = re.compile(rf"\b{name.rpartition('.')[2]}\(")
    if any(called.search(example_in(text)) for text in classes):
        return True
    links = [link for text in (own, *classes) for link in LINK.findall(text)]
    return bool(links) and all(example_in(text_of(CLASSES[link])) for link in links)


def raises_itself(function: Callable[..., object]) -> bool:
    """Whether the body has a `raise` of its own."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_has_a_docstring_with_an_example_or_a_link(name: str) -> None:
    assert text_of(FUNCTIONS[name][0]), "it has no docstring"
    assert has_example(name), text_of(FUNCTIONS[name][0])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_that_raises_has_a_list_of_its_errors(name: str) -> None:
    function = FUNCTIONS[name][0]
    text = text_of(function)
    listed = re.search(r"\nRaises:\n    \w", text) is not None
    if raises_itself(function):
        assert listed, "its body raises"
    prose = re.sub(r"(?ms)^(Raises|The future fails with):\n(    .*\n?)+", "", text)
    assert not re.search(r"\b[Rr]aises `?[A-Z]", prose), f"put it into the list: {prose}"


@pytest.mark.parametrize("name", CLASSES)
def test_public_class_has_a_docstring_and_its_examples_compile(name: str) -> None:
    text = text_of(CLASSES[name])
    assert text, "it has no docstring"
    assert "Raises `" not in text, "put it into a list"
    source = example_in(text)
    if source.startswith(">>>"):
        return  # a doctest: see test_docstring_examples.py
    compile("async def example():\n" + textwrap.indent(source or "pass", "    "), name, "exec")


def test_links_lead_to_public_classes() -> None:
    texts = [text_of(value) for value in (*CLASSES.values(), *(function for function, _ in FUNCTIONS.values()))]
    links = {link for text in texts for link in LINK.findall(text)}
    assert links <= set(CLASSES), links - set(CLASSES)
    assert links, "the walk finds them"
