"""The network of a run inside its sandbox: a switch, one cable to each node, and what can go wrong with them.

       clients (here)
            │
    ┌──── bridge ────┐
    │       │        │        each node in a network namespace of its own
   n1      n2       n3

One way between two nodes is cut in the sender's neighbour table: its packets go to a hardware address that nobody has
and are lost without a word, as on a broken line. Clients still reach both ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

__all__ = ["Lan"]

NETWORK: Final = "192.0.2"
"""For documentation (RFC 5737): nobody's address."""
HUB: Final = 254
NOBODY: Final = "02:00:00:00:00:fe"
NETEM: Final[tuple[str, ...]] = ("netem", "delay", "75ms", "50ms", "loss", "2%")
SLOW_LINE: Final[tuple[str, ...]] = ("tbf", "rate", "400kbit", "burst", "4kb", "latency", "300ms")
"""Where the kernel has no netem: a line so thin that packets wait, and are lost where too many do."""


class Lan:
    """One network for these nodes. To be made inside the sandbox."""

    def __init__(self, names: Sequence[str]) -> None:
        self._hosts = {name: f"{NETWORK}.{at + 1}" for at, name in enumerate(names)}
        self._cut: set[tuple[str, str]] = set()
        self._unplugged: set[str] = set()
        self._slow: set[str] = set()
        self.slowness = NETEM

    def build(self) -> None:
        """Make the switch, the nodes' namespaces and the cables."""
        _run("mount", "-t", "tmpfs", "none", "/run")  # seen in the sandbox alone; named namespaces live there
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "hub", "type", "bridge")
        _ip("address", "add", f"{NETWORK}.{HUB}/24", "dev", "hub")
        _ip("link", "set", "hub", "up")
        for name, host in self._hosts.items():
            _ip("netns", "add", name)
            _ip("link", "add", _cable(name), "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", _cable(name), "master", "hub", "up")
            _ip("-n", name, "address", "add", f"{host}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "eth0", "up")
        self.slowness = NETEM if self._has_netem() else SLOW_LINE

    def host(self, name: str) -> str:
        """A node's address."""
        return self._hosts[name]

    def program(self, name: str) -> tuple[str, ...]:
        """What to put before a command that shall run on a node."""
        return ("ip", "netns", "exec", name)

    def cut(self, sender: str, receiver: str) -> None:
        """From now on nothing that `sender` sends arrives at `receiver`. The other way is untouched."""
        if (sender, receiver) not in self._cut:
            self._neighbour("replace", sender, receiver, "lladdr", NOBODY, "nud", "permanent")
            self._cut.add((sender, receiver))

    def mend(self, sender: str, receiver: str) -> None:
        """End a cut; nothing where there is none."""
        if (sender, receiver) in self._cut:
            self._neighbour("del", sender, receiver)
            self._cut.discard((sender, receiver))

    def unplug(self, name: str) -> None:
        """Pull a node's cable: nobody reaches it, clients neither."""
        _ip("link", "set", _cable(name), "down")
        self._unplugged.add(name)

    def plug(self, name: str) -> None:
        """Put the cable back."""
        _ip("link", "set", _cable(name), "up")
        self._unplugged.discard(name)

    def slow_down(self, name: str) -> None:
        """What a node sends arrives late, and not all of it."""
        _run("tc", "-n", name, "qdisc", "replace", "dev", "eth0", "root", *self.slowness)
        self._slow.add(name)

    def speed_up(self, name: str) -> None:
        """End that; nothing where there is none."""
        if name in self._slow:
            _run("tc", "-n", name, "qdisc", "del", "dev", "eth0", "root")
            self._slow.discard(name)

    def heal(self) -> None:
        """Undo whatever is wrong."""
        for sender, receiver in tuple(self._cut):
            self.mend(sender, receiver)
        for name in tuple(self._unplugged):
            self.plug(name)
        for name in tuple(self._slow):
            self.speed_up(name)

    def _neighbour(self, action: str, sender: str, receiver: str, *entry: str) -> None:
        _ip("-n", sender, "neighbour", action, self._hosts[receiver], "dev", "eth0", *entry)

    def _has_netem(self) -> bool:
        tried = ["tc", "qdisc", "replace", "dev", "lo", "root", *NETEM]
        if subprocess.run(tried, capture_output=True, check=False).returncode != 0:
            return False
        _run("tc", "qdisc", "del", "dev", "lo", "root")
        return True


def _cable(name: str) -> str:
    return f"to-{name}"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
