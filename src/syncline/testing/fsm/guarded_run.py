"""`pytest --syncline-guard`: guard the determinism of all state machines of a test run.

It guards what the nodes of this process apply, and each command of a `Machine` that a test calls by hand. A test fails
if something was found, with the line of each call. The machines go on as without the guard: a finding changes no answer
and stops no node.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, ParamSpec, TypeVar

import pytest

from syncline.machines.commands import CommandMethod
from syncline.node.applier import Applier
from syncline.node.fsm import DurableFSM, Entry
from syncline.testing.fsm.guard import MOST, NotDeterministic, guard_determinism, is_guarded

__all__ = ["UNGUARDED", "GuardedRun"]

M = TypeVar("M")
P = ParamSpec("P")
R = TypeVar("R")

UNGUARDED: Final = "syncline_unguarded"
"""The mark of a test whose findings are ignored."""


class GuardedRun:
    """A pytest plugin that guards from its start on. `close` removes the guard."""

    def __init__(self) -> None:
        self._findings: dict[str, None] = {}
        self._patch = pytest.MonkeyPatch()
        self._guard_nodes()
        self._guard_commands()

    def close(self) -> None:
        self._patch.undo()

    # -- what is guarded ----------------------------------------------------------------------------------------------

    def _guard_nodes(self) -> None:
        apply_commands = Applier._apply_commands

        def guarded(applier: Applier, commands: list[Entry]) -> Sequence[object]:
            if is_guarded():
                return apply_commands(applier, commands)
            answers: Sequence[object] = ()
            try:
                with guard_determinism(files=not isinstance(applier._fsm, DurableFSM)):
                    answers = apply_commands(applier, commands)
            except NotDeterministic as found:
                self._take(found)
            return answers

        self._patch.setattr(Applier, "_apply_commands", guarded)

    def _guard_commands(self) -> None:
        call = CommandMethod.__call__

        def guarded(command: CommandMethod[M, P, R], machine: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
            if is_guarded():
                return call(command, machine, *args, **kwargs)
            answers: list[R] = []
            refusal: Exception | None = None
            try:
                with guard_determinism():
                    try:
                        answers.append(call(command, machine, *args, **kwargs))
                    except Exception as error:  # noqa: BLE001 - raised again below: first it is judged what was read
                        refusal = error
            except NotDeterministic as found:
                self._take(found)
            if refusal is not None:
                raise refusal
            return answers[0]

        self._patch.setattr(CommandMethod, "__call__", guarded)

    def _take(self, found: NotDeterministic) -> None:
        """Nodes apply on threads of their own: a dict takes this from each of them."""
        for finding in found.findings:
            if len(self._findings) < MOST:
                self._findings[finding] = None

    # -- the reports --------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge what fixtures have applied."""
        return (yield from self._judged(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge what the test has applied."""
        return (yield from self._judged(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge what was applied after the test."""
        return (yield from self._judged(item))

    def _judged(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            result = yield
        except BaseException as error:
            if (text := self._taken(item)) is not None:
                error.add_note(text)
            raise
        if (text := self._taken(item)) is not None:
            pytest.fail(text, pytrace=False)
        return result

    def _taken(self, item: pytest.Item) -> str | None:
        """The findings so far, as text; each is reported once."""
        findings, self._findings = list(self._findings), {}
        if not findings or item.get_closest_marker(UNGUARDED) is not None:
            return None
        return str(NotDeterministic(findings))
