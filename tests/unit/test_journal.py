"""Log lines that go to systemd's journal carry its priorities; lines that go elsewhere don't."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from syncline.server.logs import JournalFormatter, TextFormatter, is_journal, set_up_logging


def name_of(path: Path) -> str:
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


def line(level: int, message: str = "text") -> str:
    record = logging.makeLogRecord({"levelno": level, "levelname": logging.getLevelName(level), "msg": message})
    return JournalFormatter(logging.Formatter("%(message)s")).format(record)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
        (35, 4),
        (1, 7),
    ],
)
def test_journal_line_begins_with_its_priority(level: int, priority: int) -> None:
    assert line(level) == f"<{priority}>text"


def test_journal_has_the_priority_in_each_line_of_a_trace() -> None:
    try:
        raise RuntimeError("fault")
    except RuntimeError as error:
        record = logging.makeLogRecord(
            {"name": "syncline", "levelno": logging.ERROR, "msg": "failed", "exc_info": (RuntimeError, error, None)}
        )
    lines = JournalFormatter(TextFormatter(node="a")).format(record).split("\n")
    assert len(lines) > 1
    assert all(one.startswith("<3>") for one in lines)


def test_journal_is_told_by_the_file_that_the_stream_writes_to(tmp_path: Path) -> None:
    journal, other = tmp_path / "journal", tmp_path / "other"
    other.touch()
    with journal.open("w") as stream:
        assert is_journal(stream, {"JOURNAL_STREAM": name_of(journal)})
        assert not is_journal(stream, {"JOURNAL_STREAM": name_of(other)})
        assert not is_journal(stream, {"JOURNAL_STREAM": "bad"})
        assert not is_journal(stream, {})
    assert not is_journal(stream, {"JOURNAL_STREAM": name_of(journal)})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": name_of(journal)})


@pytest.mark.parametrize(("style", "begin"), [("text", "<4>20"), ("json", '<4>{"time"')])
def test_journal_has_the_lines_of_a_server(
    style: str, begin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = tmp_path / "journal", logging.getLogger()
    level = root.level
    with path.open("w") as stream:
        monkeypatch.setenv("JOURNAL_STREAM", name_of(path))
        handler = set_up_logging(level="info", style=style, stream=stream)
        try:
            logging.getLogger("syncline.server").warning("disk is slow")
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
    [written] = path.read_text().splitlines()
    assert written.startswith(begin)
    assert "disk is slow" in written
