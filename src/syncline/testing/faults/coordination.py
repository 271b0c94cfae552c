"""Client processes with locks and elections: no fault of the cluster, but holders that are killed, paused, cut off."""

from __future__ import annotations

import random

from syncline.testing.coordination.crew import Crew
from syncline.testing.faults.base import Trouble

__all__ = ["coordination"]


async def coordination(trouble: Trouble) -> None:
    """Processes with the product's own client take locks and campaign. They are judged after the faults, too."""
    record = trouble.changes
    assert record is not None, "a scenario records what is applied"
    crew = Crew(trouble.cluster, record, random.Random(trouble.rng.getrandbits(64)), trouble.verdict)
    trouble.crews.append(crew)
    await crew.run()
