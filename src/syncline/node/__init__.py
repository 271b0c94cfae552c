"""One node of a replicated state machine."""

from __future__ import annotations

if not __debug__:
    raise ImportError(
        "syncline does not run under python -O: assertions guard what a node must never do, and -O leaves them out."
        " Start Python without -O and without PYTHONOPTIMIZE."
    )
