"""What goes wrong, and when: decided by the seed alone.

A run is a series of phases. In each there is calm for a moment, then one to three faults for a while; then all is
healed, and the cluster has to recover. Whom a fault hits is drawn here as a number between 0 and 1, and becomes a node
when it happens, among those that can be hit then.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["KINDS", "NEEDS_LAN", "Fault", "Phase", "phases"]

KINDS: Final = {
    "kill": "kill -9 of one node",
    "kill-leader": "kill -9 of the leader",
    "kill-majority": "kill -9 of a majority at once",
    "kill-all": "kill -9 of all nodes at once",
    "storm": "one node killed again and again while it starts",
    "stop": "one node told to stop (SIGTERM), and started again",
    "pause": "one node stopped (SIGSTOP) for longer than an election timeout",
    "pause-leader": "the leader stopped for longer than an election timeout",
    "partition": "two halves that don't reach each other",
    "isolate-leader": "the leader and the others don't reach each other",
    "deaf": "one node hears nobody",
    "mute": "nobody hears one node",
    "deaf-leader": "the leader hears nobody",
    "mute-leader": "nobody hears the leader",
    "bridge": "two halves that only one node between them reaches",
    "flap": "one node's links come and go",
    "unplug": "one node reached by nobody, by its clients neither",
    "slow": "what one node sends comes late, and not all of it",
    "replace": "one member removed and wiped, and joined under a new id",
    "demote": "one voter made a learner, and a voter again",
    "transfer": "leadership handed over, again and again",
    "snapshot": "snapshots on demand",
}

NEEDS_LAN: Final = frozenset(
    {"partition", "isolate-leader", "deaf", "mute", "deaf-leader", "mute-leader", "bridge", "flap", "unplug", "slow"}
)
"""These can't be had on loopback, where nodes share one network."""

COMPANY: Final = (0.2, 0.4, 0.8)
"""How often a fault comes with one more: drawn once for a run, so that runs differ in kind and not in detail alone."""
MOST_FAULTS: Final = 3
HOLD_S: Final = (1.5, 4.0)
"""One to several election timeouts (0.5 to 1 s)."""
CALM_S: Final = (0.5, 2.0)
"""For clients to do something that the next fault can hit."""


@dataclass(frozen=True)
class Fault:
    """One fault. `picks` are numbers in [0, 1) for whatever it has to choose."""

    kind: str
    picks: tuple[float, float, float]


@dataclass(frozen=True)
class Phase:
    """`calm_s` without faults, then these, each `stagger_s` after the one before; all end after `hold_s` more."""

    faults: tuple[Fault, ...]
    calm_s: float
    stagger_s: float
    hold_s: float


def phases(seed: int, kinds: Sequence[str]) -> Iterator[Phase]:
    """Endless, and the same for the same seed and kinds. Each round has every kind once as its main fault."""
    assert kinds
    assert all(kind in KINDS for kind in kinds)
    rng = random.Random(seed)
    company = rng.choice(COMPANY)
    while True:
        for kind in rng.sample(kinds, len(kinds)):
            faults = [_fault(kind, rng)]
            while len(faults) < MOST_FAULTS and rng.random() < company:
                faults.append(_fault(rng.choice(kinds), rng))
            yield Phase(
                faults=tuple(faults), calm_s=rng.uniform(*CALM_S), stagger_s=rng.random(), hold_s=rng.uniform(*HOLD_S)
            )


def _fault(kind: str, rng: random.Random) -> Fault:
    return Fault(kind, (rng.random(), rng.random(), rng.random()))
