"""A world of its own for one run: its network, its processes and its mounts vanish with it.

The run starts again inside fresh Linux namespaces (`unshare`). Nothing of it can be seen or reached from outside, and
the kernel removes all of it with the first process of the sandbox, however that one ends: there is nothing to clean up
after a crash or a `kill -9` of the run. Where the user is not root, a user namespace makes it one inside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

__all__ = ["command", "enter", "why_not"]

PROBE_S: Final = 10.0
PROBE: Final = "mount -t tmpfs none /run && mkdir /run/netns && ip netns add one && ip link add hub type bridge"
"""What a run needs: network namespaces with names, and a bridge between them."""


def why_not() -> str | None:
    """Why no sandbox can be made on this machine; None where one can."""
    missing = [tool for tool in ("unshare", "ip") if shutil.which(tool) is None]
    if missing:
        return f"there is no {' and no '.join(missing)} command"
    try:
        probe = subprocess.run(
            [*command(), "sh", "-c", PROBE], capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"namespaces could not be made within {PROBE_S:g} s"
    return None if probe.returncode == 0 else probe.stderr.strip() or f"unshare ended with {probe.returncode}"


def enter(module: str, arguments: Sequence[str]) -> NoReturn:
    """Go on as `python -m module arguments…` inside: this process waits for that one and ends with its status."""
    os.execvp("unshare", [*command(), sys.executable, "-m", module, *arguments])


def command() -> list[str]:
    """What to put before a command that shall run in a sandbox of its own."""
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *root, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
