"""What the guides show works: their snippets, put together, are a test file that passes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:anyio")
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_guide_to_testing_state_machines(tmp_path: Path) -> None:
    bank, *rest = SNIPPET.findall((DOCS / "testing-your-state-machine.md").read_text())
    (tmp_path / "bank.py").write_text(bank)
    text = "\n\n".join(rest)
    tests = len(re.findall(r"^def test_", text, re.MULTILINE)) + 2  # one of them has three seeds
    file = tmp_path / "test_guide.py"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout
