"""One data file, from its first command to its verdict."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.compare import difference, significant
from tests.conformance.datafile import Case, FormatError, read_cases, render
from tests.conformance.tables import MEMBERSHIP_VERBS, QUORUM_VERBS, MembershipTable, QuorumTable
from tests.conformance.verbs import Interaction

__all__ = ["Verdict", "find_files", "rewrite_file", "run_file"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a file went. `failure` is empty where it passed."""

    path: Path
    commands: int
    failure: str = ""


def find_files(paths: Iterable[str]) -> list[Path]:
    """The files named, and all `*.txt` below the folders named, in order. Raises FileNotFoundError."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(path.rglob("*.txt"))
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"no such file or folder: {path}")
    return found


def run_file(path: Path) -> Verdict:
    """Run the commands of a file and compare; it ends with the first command whose output is not the expected one.

    What comes behind that would only follow from it.
    """
    commands = 0
    try:
        execute: Callable[[Case], str] | None = None
        for case in read_cases(path.read_text(encoding="utf-8")):
            execute = execute or _executor(case)
            commands += 1
            try:
                actual = execute(case)
            except Exception:  # noqa: BLE001 - whatever the core raises is a failure of the file, to be shown with it
                return Verdict(path, commands, f"{path}:{case.line}: {case.command}\n{traceback.format_exc()}")
            if diff := difference(case.expected, actual):
                return Verdict(path, commands, f"{path}:{case.line}: {_headline(case)}\n{diff}")
    except (FormatError, UnicodeDecodeError) as error:
        return Verdict(path, commands, f"{path}: {error}")
    if not commands:
        return Verdict(path, commands, f"{path}: no command in it")
    return Verdict(path, commands)


def rewrite_file(path: Path) -> bool:
    """Record the outputs of a file's commands in it, without log lines. Returns whether the file changed.

    Outputs that are right are left as they are. Errors of the commands themselves are raised.
    """
    text = path.read_text(encoding="utf-8")
    execute: Callable[[Case], str] | None = None
    outputs: list[tuple[Case, str]] = []
    for case in read_cases(text):
        execute = execute or _executor(case)
        actual = execute(case)
        if difference(case.expected, actual) or not case.expected:
            outputs.append((case, "\n".join(significant(actual)) or "ok"))
    rewritten = render(text, outputs)
    if rewritten == text:
        return False
    # A crash must not leave half a file behind.
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(rewritten, encoding="utf-8")
    os.replace(temporary, path)
    return True


def _executor(first: Case) -> Callable[[Case], str]:
    """What runs a file's commands: the kind of a file shows in its first one."""
    if first.command in QUORUM_VERBS:
        return QuorumTable().run
    if first.command in MEMBERSHIP_VERBS:
        return MembershipTable().run
    return Interaction().run


def _headline(case: Case) -> str:
    shown = [case.command]
    for argument in case.arguments:
        values = argument.values
        shown.append(argument.key if not values else f"{argument.key}=({','.join(values)})")
    return " ".join(shown)
