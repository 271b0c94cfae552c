"""Run inside a sandbox by a test: who hears whom on a network of three, in each of its states. Prints JSON.

Each node listens for datagrams, and each sends one to every other; what arrived within `LISTEN_S` was heard.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from tests.chaos.lan import Lan

LISTEN_S: Final = 0.5
PORT: Final = 9000
NAMES: Final = ("n1", "n2", "n3")

LISTENER: Final = """
import socket, sys, time
listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()  # everything has been sent
end_s, heard = time.monotonic() + float(sys.argv[2]), set()
while True:  # a process that did not run until the end takes what has arrived
    listening.settimeout(max(end_s - time.monotonic(), 0.001))
    try:
        heard.add(listening.recv(16).decode())
    except TimeoutError:
        break
print(" ".join(sorted(heard)))
"""
SENDER: Final = """
import contextlib, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
    for host in sys.argv[3:]:
        with contextlib.suppress(OSError):
            sending.sendto(sys.argv[1].encode(), (host, int(sys.argv[2])))
"""


def heard(lan: Lan) -> dict[str, list[str]]:
    """By node: whom it hears."""
    listeners = {name: _start(lan, name, LISTENER, str(PORT), str(LISTEN_S)) for name in NAMES}
    for process in listeners.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for name in NAMES:
        others = [lan.host(other) for other in NAMES if other != name]
        assert _start(lan, name, SENDER, name, str(PORT), *others).wait() == 0
    for process in listeners.values():
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return {name: process.communicate()[0].split() for name, process in listeners.items()}


def _start(lan: Lan, name: str, program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [*lan.program(name), sys.executable, "-I", "-S", "-c", program, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Through the states of a network."""
    lan = Lan(NAMES)
    lan.build()
    states = {"whole": heard(lan)}
    lan.cut("n1", "n2")
    states["n1 cut from n2"] = heard(lan)
    lan.mend("n1", "n2")
    lan.slow_down("n1")
    lan.unplug("n3")
    states["n1 mended and slow, n3 unplugged"] = heard(lan)
    lan.heal()
    states["healed"] = heard(lan)
    print(json.dumps(states))


if __name__ == "__main__":
    main()
