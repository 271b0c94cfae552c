"""The hunt's result as the table in docs/correctness.md, between two marks that stay where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.mutations.all import ALL
from tests.mutations.catalogue import WAITING, Hunt, Mutation
from tests.mutations.hunters import Catch

__all__ = ["BEGIN", "DOCUMENT", "END", "Result", "render", "write"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "correctness.md"
BEGIN = "<!-- the table of planted bugs: written by `python -m tests.mutations --write` -->"
END = "<!-- end of the table -->"

Result = Sequence[tuple[Hunt, Catch | None]]


def render(results: Mapping[str, Result]) -> str:
    """The table, for the mutations of which there are results."""
    rows = [
        "| bug | where it happened | planted as | noticed by | attempts | as |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for mutation in ALL:
        for hunt, catch in results.get(mutation.name, ()):
            rows.append(_row(mutation, hunt, catch))
    for bug, where, what in WAITING:
        rows.append(f"| {bug} | {where} | | waits for {what} | | |")
    caught = sum(all(catch is not None for _, catch in result) and bool(result) for result in results.values())
    rows.append("")
    rows.append(f"{caught} of {len(results)} planted bugs are noticed; {len(WAITING)} wait for what they could be in.")
    return "\n".join(rows) + "\n"


def _row(mutation: Mutation, hunt: Hunt, catch: Catch | None) -> str:
    seen = catch.seen.replace("|", "\\|")[:120] if catch is not None else "**not noticed**"
    attempts = f"{catch.attempt} of {hunt.limit}" if catch is not None else f"- of {hunt.limit}"
    return f"| {mutation.bug} | {mutation.where} | `{mutation.name}` | {hunt.by} | {attempts} | {seen} |"


def write(table: str) -> None:
    """Put the table into the document in place of the one that is there. Raises ValueError where the marks are gone."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{DOCUMENT}: the marks around the table are not there")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")
