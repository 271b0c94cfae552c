"""Each known bug of others, planted into ours, is noticed; and the sound code passes the same hunts."""

from __future__ import annotations

import re

import pytest

from tests.mutations import table
from tests.mutations.all import ALL
from tests.mutations.catalogue import MUTATIONS, WAITING, Hunt, Mutation

CASES = [
    pytest.param(
        mutation,
        hunt,
        id=f"{mutation.name}-{hunt.by.replace(' ', '_')}",
        marks=[pytest.mark.slow] if hunt.slow else [],
    )
    for mutation in ALL
    for hunt in mutation.hunts
]


@pytest.mark.parametrize(("mutation", "hunt"), CASES)
def test_a_planted_bug_is_noticed(mutation: Mutation, hunt: Hunt) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutation.plant(patch)
        catch = hunt.hunter(hunt.limit)
    assert catch is not None, f"{mutation.name}: not noticed by {hunt.by} within {hunt.limit} attempts"
    assert re.search(hunt.expects, catch.seen), f"{mutation.name}: noticed as something else: {catch.seen}"


SOUND_EACH = 8
"""Of the hunts on sound code every eighth is made in each run, and all in the soak: they differ in little."""

SOUND_CASES = [
    pytest.param(*case.values, id=case.id, marks=[*case.marks, *([pytest.mark.slow] if number % SOUND_EACH else [])])
    for number, case in enumerate(CASES)
]


@pytest.mark.parametrize(("mutation", "hunt"), SOUND_CASES)
def test_sound_code_is_not_accused(mutation: Mutation, hunt: Hunt) -> None:
    # Otherwise being noticed would mean nothing. One attempt: other tests make many more of each kind on sound code.
    assert hunt.hunter(1) is None


def test_every_bug_of_the_list_is_hunted_or_waits_for_its_feature() -> None:
    assert all(not all(hunt.slow for hunt in mutation.hunts) for mutation in ALL)
    names = [mutation.name for mutation in ALL]
    assert len(set(names)) == len(names)
    assert len(MUTATIONS) + len(WAITING) == 18  # and the first ones of `leases` and `coordination`


def test_the_document_holds_a_row_for_each() -> None:
    text = table.DOCUMENT.read_text(encoding="utf-8")
    _, _, rest = text.partition(table.BEGIN)
    written, end, _ = rest.partition(table.END)
    assert end
    for mutation in ALL:
        rows = [line for line in written.splitlines() if f"`{mutation.name}`" in line]
        assert [line.split("|")[4].strip() for line in rows] == [hunt.by for hunt in mutation.hunts]
        assert "not noticed" not in "".join(rows)
