"""The interpreter's settings for a process of a node's own."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from syncline.platform.interpreter import COLLECT_EVERY, SWITCH_INTERVAL_S

PROGRAM: Final = """
import gc, sys
usual = sys.getswitchinterval(), gc.get_threshold()
import syncline
from syncline.platform import interpreter
print((sys.getswitchinterval(), gc.get_threshold()) == usual)
interpreter.prepare()
interpreter.freeze()
print(sys.getswitchinterval(), gc.get_threshold()[0], gc.get_freeze_count() > 0)
"""


def test_a_process_is_prepared_only_where_it_asks_for_it() -> None:
    """An import alone changes nothing. Asked in a process of its own: other tests prepare this one."""
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["True", str(SWITCH_INTERVAL_S), str(COLLECT_EVERY), "True"]
