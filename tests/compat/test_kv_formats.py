"""Key-value commands and answers are what `docs/formats.md` says, and stay it.

The golden bytes are in `fixtures/kv-commands.json`. They are read twice: by the program, and by a plain MessagePack
reader, whose fields must be those of the document's tables.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from syncline.errors import Rejected
from syncline.kv import answers
from syncline.kv.answers import CommandResult, dump_answer, load_answer
from syncline.kv.auth.commands import AuthAnswer
from syncline.kv.commands import (
    Command,
    Compact,
    CompareTarget,
    Comparison,
    Delete,
    DeleteRange,
    Get,
    Increment,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    LeaseRevoke,
    OperationBatch,
    Put,
    Range,
    Touch,
    Txn,
    TxnCompare,
    decode_command,
    encode_command,
)
from syncline.kv.records import (
    BatchAnswer,
    CompactAnswer,
    DeleteAnswer,
    DeleteRangeAnswer,
    GetAnswer,
    IncrementAnswer,
    KeyRecord,
    LeaseAnswer,
    LeaseCheckpointAnswer,
    LeaseEndAnswer,
    PutAnswer,
    RangePage,
    TouchAnswer,
    TxnAnswer,
)
from syncline.kv.versions import KNOWN
from tests.helpers.auth_commands import AUTH_COMMANDS

ROOT = Path(__file__).parents[2]
GOLDEN: dict[str, str] = json.loads((ROOT / "tests" / "fixtures" / "kv-commands.json").read_text())
RECORD = KeyRecord(b"k", b"v", 1, 2, 2, 5, 7)
COMPARES = (
    TxnCompare(b"k", CompareTarget.VALUE, Comparison.LESS, b"x", True),
    TxnCompare(b"k", CompareTarget.LEASE, Comparison.EQUAL, 5, b"l"),
    TxnCompare(b"k", CompareTarget.MOD_REVISION, Comparison.GREATER, 2**63 - 1),
)
COMMANDS: dict[str, Command] = {
    "put": Put(b"k", b"v"),
    "put with all fields": Put(b"k", b"v", 3, -1, 4000, True),
    "delete": Delete(b"k", 7, True),
    "delete range": DeleteRange(b"a", None, 2, True),
    "transaction": Txn(COMPARES, (Get(b"k", 9), Touch(b"t", 70, 5)), (Range(b"", b"z", revision=9), Txn())),
    "grant": LeaseGrant(2**63 - 1, 9_000_000_000_000),
    "revoke": LeaseRevoke(5),
    "end": LeaseEnd((5, 6), 3, (8, 9)),
    "checkpoint": LeaseCheckpoint(((5, 70),), 3, (8,)),
    "increment": Increment(b"k", -2, 5, True),
    "touch": Touch(b"k", 70, 5),
    "compact": Compact(8, 3),
    "batch": OperationBatch((Put(b"k", b"v"), Get(b"k"), Increment(b"n"), Txn(then=(Delete(b"k"),)))),
    **AUTH_COMMANDS,
}
ANSWERS: dict[str, CommandResult] = {
    "put": PutAnswer(3, False, 2, RECORD, 5),
    "delete": DeleteAnswer(True, 3, RECORD),
    "delete range": DeleteRangeAnswer(1, 3, True, (RECORD,)),
    "get": GetAnswer(RECORD, 3),
    "range": RangePage([RECORD], True, 3, 2, b"k"),
    "transaction": TxnAnswer(True, 3, (GetAnswer(None, 3), PutAnswer(3, True, 0))),
    "increment": IncrementAnswer(3, -5, None),
    "touch": TouchAnswer(3, 5),
    "grant": LeaseAnswer(5, 70),
    "end": LeaseEndAnswer(1, 2, 3),
    "checkpoint": LeaseCheckpointAnswer(2),
    "compact": CompactAnswer(2, 3),
    "users": AuthAnswer(8, True),
}
BATCH_ANSWER = BatchAnswer((PutAnswer(3, True, 0), Rejected("too much", code="too_large", details={"limit": 4})), 3)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_its_golden_bytes(name: str) -> None:
    data = bytes.fromhex(GOLDEN[f"command: {name}"])
    assert encode_command(COMMANDS[name]) == data
    assert decode_command(data) == COMMANDS[name]


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_is_its_golden_bytes(name: str) -> None:
    data = bytes.fromhex(GOLDEN[f"answer: {name}"])
    assert dump_answer(ANSWERS[name]) == data
    assert load_answer(data) == ANSWERS[name]


def test_answer_to_a_batch_is_its_golden_bytes() -> None:
    data = bytes.fromhex(GOLDEN["answer: batch"])
    assert dump_answer(BATCH_ANSWER) == data
    answer = load_answer(data)
    assert isinstance(answer, BatchAnswer)
    kept, refusal = answer.results
    assert (kept, answer.revision) == (BATCH_ANSWER.results[0], 3)
    assert isinstance(refusal, Rejected)
    assert (str(refusal), refusal.code, refusal.details) == ("too much", "too_large", {"limit": 4})


def test_golden_bytes_hold_each_command_and_each_answer() -> None:
    assert {type(command) for command in COMMANDS.values()} == set(get_args(Command))
    assert {type(answer) for answer in [*ANSWERS.values(), BATCH_ANSWER]} == set(get_args(CommandResult))
    assert len(GOLDEN) == len(COMMANDS) + len(ANSWERS) + 1


def test_first_commands_have_the_tags_and_fields_of_the_document() -> None:
    """A plain reader, with the document's tables alone."""
    commands, replies = tables()
    assert {tag: len(fields) for tag, fields in commands.items()} == {
        kind.__struct_config__.tag: len(kind.__struct_fields__) for kind in KNOWN
    }
    for kind in KNOWN:
        assert commands[tag_of(kind)] == list(kind.__struct_fields__)
    kept = (*get_args(answers._SingleAnswer), answers._KeptBatch, answers._KeptRefusal)
    assert replies == {tag_of(kind): list(kind.__struct_fields__) for kind in kept}
    put = msgspec.msgpack.decode(bytes.fromhex(GOLDEN["command: put with all fields"]))
    assert dict(zip(commands[put[0]], put[1:], strict=True)) == {
        "key": b"k",
        "value": b"v",
        "lease": 3,
        "expect": -1,
        "ttl_ms": 4000,
        "previous": True,
    }


def tag_of(kind: type[msgspec.Struct]) -> int:
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int)
    return tag


def tables() -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """The tables of commands and of answers: by tag, the names of the fields."""
    text = (ROOT / "docs" / "formats.md").read_text().partition("## Key-value commands")[2].partition("\n## ")[0]
    first, _, second = text.partition("| tag | answer to | fields |")
    return rows(first), rows(second)


def rows(text: str) -> dict[int, list[str]]:
    found = re.findall(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    return {int(tag): re.findall(r"`(\w+)`", fields) for tag, fields in found}
