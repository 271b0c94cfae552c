"""`up --detach`, `logs` and `down`: one node for all of them; and starts that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.helpers.command import syncline
from tests.helpers.ports import free_block

SYNCLINE = (sys.executable, "-m", "syncline")
LIMIT_S = 60.0


def run(*arguments: str, status: int = 0) -> str:
    """What a command prints; on the error output if it fails as it should."""
    ran = syncline(*arguments)
    assert ran.status == status, ran
    return ran.err if status else ran.text


def in_a_process(*arguments: str) -> str:
    """What a command prints that leaves a process behind."""
    ran = subprocess.run([*SYNCLINE, *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return ran.stdout


def test_detached_cluster_runs_until_down_and_starts_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    where = ("--data-dir", str(data_dir))
    port = free_block(101)
    told = in_a_process("up", "-d", "--nodes", "1", "--port", str(port), *where)
    try:
        url = f"http://127.0.0.1:{port}"
        assert f"ready: 1 node, data in {data_dir}" in told
        assert told.splitlines()[-1].split(maxsplit=3)[-1].endswith(f"syncline down --data-dir {data_dir}")
        assert run("put", "k", "v", "--endpoints", url) == "revision 1\n"
        again = run("up", "-d", *where, status=1)
        assert "another 'syncline up' (pid " in again
        assert f"syncline down --data-dir {data_dir}" in again
        assert again.count("\n") == 1

        assert " n1 node: " in run("logs", *where)
        assert run("logs", "n1", "-n", "1", *where).count("\n") == 1
        assert "ready: 1 node" in run("logs", "up", *where)
        assert "there are n1, up" in run("logs", "n2", *where, status=2)
        _follows(data_dir)

        stopped = run("down", *where)
        assert f"the data are in {data_dir}" in stopped
        assert f"syncline up --data-dir {data_dir}" in stopped
        assert "no 'syncline up' runs there" in run("down", *where), "no error: it is as it should be"
        found = json.loads(in_a_process("up", "--detach", "--json", *where))
        assert (found["event"], found["endpoints"]) == ("ready", url)
        assert run("get", "k", "--endpoints", url) == "v"
    finally:
        run("down", *where)


def _follows(data_dir: Path) -> None:
    """`logs -f` prints what is written after it began, also to a new file after a rotation."""
    log = data_dir / "n1" / "log"
    command = [*SYNCLINE, "logs", "n1", "-f", "-n", "1", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        following.stdout.readline()
        with log.open("a") as file:
            file.write("the next line\n")
        assert following.stdout.readline() == "the next line\n"
        log.rename(data_dir / "n1" / "log.1")
        log.write_text("after the rotation\n")
        assert following.stdout.readline() == "after the rotation\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(LIMIT_S) == 130


def test_detached_start_that_fails_tells_why_and_leaves_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "d"
    secret = {**os.environ, "SYNCLINE_LOG_LEVEL": "nonsense"}  # every node refuses its settings
    for detach in ((), ("-d",)):
        command = [*SYNCLINE, "up", *detach, "--port", str(free_block(103)), "--data-dir", str(data_dir)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=secret)
        assert ran.returncode == 1
        assert ran.stderr.count("\n") == 1
        assert "SYNCLINE_LOG_LEVEL" in ran.stderr
        assert "nothing was kept of this start" in ran.stderr
        assert list(tmp_path.iterdir()) == []


def test_down_without_a_cluster_is_a_usage_error(tmp_path: Path) -> None:
    assert "no cluster was started in" in run("down", "--data-dir", str(tmp_path / "absent"), status=2)
    assert "no cluster was started in" in run("logs", "--data-dir", str(tmp_path), status=2)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_under_writes_answers_all_and_ends_at_once(tmp_path: Path) -> None:
    """It took five seconds: the leader waited for the deadlines of writes that had lost their quorum."""
    command = [*SYNCLINE, "up", "--json", "--port", str(free_block(103)), "--data-dir", str(tmp_path / "d")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        endpoints = json.loads(up.stdout.readline())["endpoints"].split(",")
        answers: list[str] = []
        enough = threading.Event()
        writers = [threading.Thread(target=_write, args=(url, answers, enough)) for url in endpoints * 2]
        for writer in writers:
            writer.start()
        assert enough.wait(LIMIT_S)
        up.send_signal(signal.SIGINT)
        assert up.wait(LIMIT_S) == 0
        for writer in writers:
            writer.join(LIMIT_S)
    assert set(answers) == {"200", "refused"}, "every request is answered, and none runs into a deadline"


def _write(url: str, answers: list[str], enough: threading.Event) -> None:
    """Write on one connection until the server takes no more. At its end every request has an answer."""
    import http.client

    host = url.removeprefix("http://")
    while True:
        connection = http.client.HTTPConnection(host, timeout=LIMIT_S)
        try:
            connection.connect()
        except ConnectionRefusedError:
            answers.append("refused")
            return
        try:
            keep = True
            while keep:
                connection.request("PUT", "/key/k", b"v")
                answer = connection.getresponse()
                answer.read()
                answers.append(str(answer.status))
                if len(answers) > 100:
                    enough.set()
                keep = not answer.will_close
        except OSError as error:
            answers.append(f"lost: {error!r}")
        finally:
            connection.close()
