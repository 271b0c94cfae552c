"""The addresses at which a peer may be dialled, tried in turn until the peer itself answers at one.

An address proves nothing. Both ends check cluster, node and data directory on each connection, so a wrong one costs
time and no safety. In order: the address that the peer gave in its own newest greeting, the replicated one, the
configured hint.
"""

from __future__ import annotations

import ipaddress

from syncline.errors import ConfigError
from syncline.transport.messages import PeerAddress

__all__ = ["Candidates", "dialable", "is_wildcard", "with_real_port"]


class Candidates:
    """The addresses of one peer: at most three. `current` is the one in use or to be dialled next."""

    def __init__(self) -> None:
        self.greeted: PeerAddress | None = None
        """From the peer's own greeting."""
        self.replicated: PeerAddress | None = None
        """From the member registry."""
        self.hint: PeerAddress | None = None
        """From settings of this node."""
        self.current: PeerAddress | None = None

    def __len__(self) -> int:
        return len(self.all())

    def all(self) -> list[PeerAddress]:
        """All addresses, each once, in the order in which they are tried."""
        known = (self.greeted, self.replicated, self.hint)
        return list(dict.fromkeys(address for address in known if address is not None))

    def greet(self, address: PeerAddress) -> bool:
        """Take the address of a greeting; return whether it should be dialled now, if there is no link."""
        changed, self.greeted = address != self.greeted, address
        return self._prefer(address, changed=changed)

    def replicate(self, address: PeerAddress) -> bool:
        """Take the address of the registry; return whether it should be dialled now, if there is no link."""
        changed, self.replicated = address != self.replicated, address
        return self._prefer(address, changed=changed)

    def suggest(self, address: PeerAddress) -> None:
        """Take a hint."""
        self.hint = address
        if self.current not in self.all():
            self.current = address

    def failed(self) -> bool:
        """Go to the next address; return whether all were tried since the first one."""
        known = self.all()
        at = known.index(self.current) + 1 if self.current in known else 0
        self.current = known[at % len(known)]
        return at >= len(known)

    def _prefer(self, address: PeerAddress, *, changed: bool) -> bool:
        if changed or self.current is None:
            moved, self.current = address != self.current, address
            return moved
        return False


def dialable(text: str, *, setting: str = "address") -> PeerAddress:
    """Return an address that can be dialled. Raises `ConfigError` for others."""
    address = PeerAddress.parse(text, setting=setting)
    if address.port == 0:
        raise ConfigError(f"{setting} {text!r}: port 0 can't be dialled")
    return address


def is_wildcard(host: str) -> bool:
    """Whether a host means every interface of a machine, in any spelling: other nodes can't dial it."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_unspecified
    except ValueError:
        return host in ("0", "*")


def with_real_port(text: str, port: int) -> str:
    """The address with this port if it has port 0, which means a free one."""
    address = PeerAddress.parse(text) if text else None
    return str(PeerAddress(address.host, port)) if address is not None and address.port == 0 else text
