"""The result of one check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from syncline.platform.texts import counted

__all__ = ["NO_NAME", "Finding", "Verdict", "summary_of", "verdict_of"]

NO_NAME: Final = "doctor"
"""In place of a node's name, if no setting gives one."""

Verdict = Literal["ok", "warn", "fail", "skip"]

_ORDER: Final[tuple[Verdict, ...]] = ("fail", "warn", "ok")


class Finding(msgspec.Struct, frozen=True):
    """What one check has found, in words, and what to do about it.

    `warn`: a node runs, and will have trouble. `fail`: a node will not start, or not stay. `skip`: not checked.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""

    @property
    def line(self) -> str:
        """The finding on one line."""
        return f"{self.verdict:<4}  {self.check:<12}  {self.text}{f'. {self.advice}' if self.advice else ''}"


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """The worst of them."""
    met = {finding.verdict for finding in findings}
    return next((verdict for verdict in _ORDER if verdict in met), "ok")


def summary_of(findings: Iterable[Finding]) -> str:
    """How many of each kind there are, on one line."""
    met = Counter(finding.verdict for finding in findings)
    return f"{counted(met['ok'], 'check')} passed, {counted(met['warn'], 'warning')}, {met['fail']} failed"
