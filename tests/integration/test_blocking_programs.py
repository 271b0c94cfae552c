"""Programs with a blocking node, in processes of their own: forks, ends without a close, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from syncline import Config, blocking
from tests.helpers.node_cluster import Listing
from tests.helpers.ports import free_block
from tests.helpers.prefork import program

PRELUDE = """
    import os, sys, threading
    from syncline import Config, blocking
    from tests.helpers.node_cluster import Listing

    folder, address = sys.argv[1:3]
    config = Config(name="a", data_dir=folder, listen=address, peers={"a": address}, election_s=0.2)
"""

FORGETS = (
    PRELUDE
    + """
    raft = blocking.Raft.open(config, Listing())
    print(raft.apply(b"one"))
    events = raft.events()
    threading.Thread(target=list, args=(events,), daemon=True).start()
    if os.fork() == 0:
        for use in (raft.stats, raft.close, lambda: blocking.Raft.open(config, Listing())):
            try:
                use()
            except Exception as error:
                print(type(error).__name__, flush=True)
        sys.exit()
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    print(raft.apply(b"two"))
"""
)

ACKNOWLEDGES = (
    PRELUDE
    + """
    raft = blocking.Raft.open(config, Listing())

    def work():
        while True:
            os.write(1, b"%d\\n" % raft.apply(b"x"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
"""
)


def address() -> str:
    return f"127.0.0.1:{free_block(1)}"


def kept(folder: Path) -> int:
    """How many commands the data directory has."""
    listen = address()
    config = Config(name="a", data_dir=str(folder), listen=listen, peers={"a": listen}, election_s=0.2)
    machine = Listing()
    with blocking.Raft.open(config, machine) as raft:
        return raft.read(lambda: len(machine.items))


def test_blocking_program_without_a_close_ends_and_its_child_is_refused(tmp_path: Path) -> None:
    """It leaves no word on the standard error, and what was acknowledged is kept."""
    said = program(FORGETS, str(tmp_path / "a"), address(), endpoints=[])
    assert said == ["1", "UsageError", "UsageError", "DirectoryLocked", "2"]
    assert kept(tmp_path / "a") == 2


def test_blocking_program_killed_in_calls_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(root / "src")))}
    command = [sys.executable, "-c", textwrap.dedent(ACKNOWLEDGES), str(tmp_path / "a"), address()]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().split()]
    assert len(set(acknowledged)) == len(acknowledged), "each answer once"
    assert kept(tmp_path / "a") >= max(acknowledged)
