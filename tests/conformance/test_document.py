"""docs/consensus.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from syncline.consensus.config import RaftConfig
from syncline.consensus.roles import TRANSITIONS
from syncline.consensus.validation import StepRefusal
from tests.conformance.diagram import REASONS, draw

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "consensus.md").read_text(encoding="utf-8")


def test_the_diagram_is_the_codes_own_table() -> None:
    match = re.search(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)
    assert match is not None
    assert match[1] == draw(), "run `python -m tests.conformance.diagram` and put its output into the document"


def test_every_transition_has_a_reason_and_every_reason_a_transition() -> None:
    edges = {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    assert edges == REASONS.keys()


def test_every_file_that_the_document_names_exists() -> None:
    named = set(re.findall(r"`((?:src|tests|bench|docs)/[\w./]+)`", TEXT))
    assert len(named) >= 5
    missing = [name for name in named if not (REPOSITORY / name).exists()]
    assert not missing


def test_every_setting_and_refusal_that_the_document_names_exists() -> None:
    settings = set(re.findall(r"`RaftConfig\.(\w+)`", TEXT))
    assert settings
    assert settings <= RaftConfig.__dataclass_fields__.keys()
    refusals = set(re.findall(r"`StepRefusal\.(\w+)`", TEXT))
    assert refusals
    assert refusals <= StepRefusal.__members__.keys()
