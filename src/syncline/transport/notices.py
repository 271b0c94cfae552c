"""Rate-limited log lines about other ends: a repeated fault is logged once, then counted."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final

__all__ = ["LOGGER", "Notices"]

LOGGER: Final = logging.getLogger("syncline.transport")

REPEAT_S: Final = 60.0
"""The same fault is logged again after this time, with the count of suppressed lines."""

CHANGE_S: Final = 1.0
"""Another fault under the same key is logged after this time: random bytes give a new text each time."""

MAX_KEYS: Final = 256
"""Keys that are kept; any program can cause new ones, so their number needs a bound."""


class Notices:
    """Rate-limited warnings: for each key one for each changed fault, and one now and then while it lasts."""

    def __init__(self, log: logging.Logger = LOGGER, level: int = logging.WARNING) -> None:
        self._log = log
        self._level = level
        self._said: OrderedDict[str, tuple[str, float, int]] = OrderedDict()

    def warn(self, key: str, subject: str, fault: str, now_s: float) -> None:
        """Log "subject: fault", unless `fault` was logged for `key` lately. `subject` may differ each time (a port)."""
        self._tell(self._level, key, subject, fault, now_s)

    def inform(self, key: str, subject: str, fact: str, now_s: float) -> None:
        """The same for what is no fault, but may come without an end. Use other keys than for faults."""
        self._tell(logging.INFO, key, subject, fact, now_s)

    def _tell(self, level: int, key: str, subject: str, fault: str, now_s: float) -> None:
        last, said_s, held_back = self._said.pop(key, ("", -REPEAT_S, 0))
        if now_s - said_s < (REPEAT_S if last == fault else CHANGE_S):
            self._said[key] = (last, said_s, held_back + 1)
            return
        if held_back:
            self._log.log(level, "%s: %s (%d like it before)", subject, fault, held_back)
        else:
            self._log.log(level, "%s: %s", subject, fault)
        self._said[key] = (fault, now_s, 0)
        while len(self._said) > MAX_KEYS:
            self._said.popitem(last=False)

    def forget(self, key: str) -> None:
        """The fault of `key` is over: the next one is logged at once."""
        self._said.pop(key, None)
