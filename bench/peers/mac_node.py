"""`syncline serve` whose links on loopback carry the frame MAC, as links between machines do.

Syncline leaves the MAC out on loopback, so a bench on one machine would not see what it costs.
"""

from __future__ import annotations

import sys

from syncline.__main__ import main
from syncline.transport.authentication import PeerAuthentication


def keep_mac() -> None:
    """Make "with a MAC on loopback" the default of this process."""
    defaults = PeerAuthentication.__init__.__kwdefaults__
    assert defaults is not None, "this Syncline decides about the MAC in another place"
    assert "spare_loopback" in defaults
    defaults["spare_loopback"] = False


if __name__ == "__main__":
    keep_mac()
    sys.exit(main())
