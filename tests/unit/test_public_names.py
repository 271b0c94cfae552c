"""The public modules: what each exports, and that all that stands in a public signature is exported, too."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import TypeVar, get_args, get_origin, get_type_hints

import pytest

import syncline

MODULES = (
    *("syncline", "syncline.errors", "syncline.blocking", "syncline.client", "syncline.machines", "syncline.server"),
    "syncline.testing",
)

OPAQUE = {"Site": "a server gives it, and `AsgiApp` takes it: its members are internal"}
"""Exported classes whose members are no promise."""

MADE_BY_CLIENT = ("syncline.blocking", "syncline.client.blocking", "syncline.client.coordination")
"""Other calls make the objects of these packages: all their constructors but its own are internal."""

LATE = {"Commands": object}
"""A name that is there only for type checkers: Hypothesis is optional."""


def exported() -> dict[str, object]:
    """All public objects, by module and name."""
    found: dict[str, object] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for public in module.__all__:
            found[f"{name}.{public}"] = getattr(module, public)
    return found


PUBLIC = exported()
PUBLIC_CLASSES = {id(value) for value in PUBLIC.values() if isinstance(value, type)}


@pytest.mark.parametrize("name", MODULES)
def test_module_all_names_what_it_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(set(module.__all__)), "in order, each once"
    assert set(module.__all__) <= set(dir(module))
    assert not [public for public in module.__all__ if public.startswith("_") and public != "__version__"]


def test_package_attributes_are_the_public_modules() -> None:
    """Each in a process that has imported nothing but `syncline`."""
    for attribute in (
        "errors.Rejected",
        "blocking.BlockingFuture",
        "client.AsyncClient",
        "server.KvServer",
        "testing.check_fsm",
    ):
        code = f"import syncline; print(syncline.{attribute}.__name__)"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
        assert answer.stdout.strip() == attribute.rpartition(".")[2]


def test_module_without_an_attribute_says_so() -> None:
    for name in MODULES:
        with pytest.raises(AttributeError, match=rf"module '{name}' has no attribute 'nothing'"):
            importlib.import_module(name).nothing  # noqa: B018 - the access is what is tested


def members(kind: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties of a class, those of its private bases of ours among them."""
    for base in kind.__mro__:
        if base.__module__.startswith("syncline"):
            made = base.__module__.startswith(MADE_BY_CLIENT) and base is not syncline.Client
            for name, value in vars(base).items():
                if (name == "__init__" and not made) or not name.startswith("_"):
                    yield name, value


def hints_of(value: object) -> Iterator[tuple[str, object]]:
    """What stands in the annotations of a public object, by its place."""
    if isinstance(value, type):
        for name, hint in get_type_hints(value).items():
            if not name.startswith("_"):
                yield name, hint
        for name, member in members(value):
            function = member
            if isinstance(member, property):
                function = member.fget
            elif isinstance(member, classmethod | staticmethod):
                function = member.__func__
            if inspect.isfunction(function) and function.__module__.startswith("syncline"):
                for parameter, hint in get_type_hints(function).items():
                    yield f"{name}({parameter})", hint
    elif inspect.isfunction(value):
        for parameter, hint in get_type_hints(value, localns=LATE).items():
            yield parameter, hint
    else:
        yield "", value


def classes_in(hint: object) -> Iterator[type]:
    """The classes of ours that a type is made of."""
    if isinstance(hint, TypeVar):
        if hint.__bound__ is not None:
            yield from classes_in(hint.__bound__)
        return
    if isinstance(hint, list | tuple):  # the parameters of a callable
        for part in hint:
            yield from classes_in(part)
        return
    for part in get_args(hint):
        yield from classes_in(part)
    if (origin := get_origin(hint)) is not None:
        yield from classes_in(origin)
    elif isinstance(hint, type) and hint.__module__.startswith("syncline"):
        yield hint


@pytest.mark.parametrize(
    "name", [name for name, value in PUBLIC.items() if getattr(value, "__name__", "") not in OPAQUE]
)
def test_public_signature_names_exported_classes_only(name: str) -> None:
    hidden = {
        f"{place}: {kind.__module__}.{kind.__name__}"
        for place, hint in hints_of(PUBLIC[name])
        for kind in classes_in(hint)
        if id(kind) not in PUBLIC_CLASSES
    }
    assert not hidden, f"{name} has these in its public signatures: export them, or hide the place"


def test_walk_finds_the_classes_of_a_signature() -> None:
    """The test above proves nothing if its walk finds nothing."""
    found = {kind for _, hint in hints_of(syncline.Raft) for kind in classes_in(hint)}
    assert {syncline.Config, syncline.FSM, syncline.Startup, syncline.Member, syncline.Event, syncline.Stats} <= found
