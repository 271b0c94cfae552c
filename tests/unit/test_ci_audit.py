"""`.ci/audit` with tools that hang, fail or find something: the network never fails or holds up a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "audit"

PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\n[ "$1" = - ] && exec {python} -\\n{install}\\n' >"$3/bin/python"
printf '#!/bin/sh\\n{audit}\\n' >"$3/bin/pip-audit"
chmod +x "$3/bin/python" "$3/bin/pip-audit"
"""
"""In place of Python: it makes an environment whose pip and pip-audit do what a test wants."""


@pytest.mark.parametrize(
    ("install", "audit", "status", "text"),
    [
        ("exec sleep 60", "exit 1", 0, "NOT AUDITED: pip-audit could not be installed"),
        ("echo no route to host >&2; exit 1", "exit 1", 0, "could not be installed: no route to host"),
        ("exit 0", "exec sleep 60", 0, "NOT AUDITED: the database did not answer within 1 s"),
        ("exit 0", "echo Temporary failure in name resolution >&2; exit 1", 0, "NOT AUDITED: the database"),
        ("exit 0", "echo 503 Server Error: Service Unavailable >&2; exit 1", 0, "NOT AUDITED: the database"),
        ("exit 0", "echo No known vulnerabilities found >&2", 0, "No known vulnerabilities found"),
        ("exit 0", "echo Found 1 known vulnerability >&2; exit 1", 1, "Found 1 known vulnerability"),
        ("exit 0", "echo Traceback >&2; exit 1", 1, "Traceback"),
    ],
)
def test_ci_audit_fails_for_a_vulnerability_and_not_for_the_network(
    install: str, audit: str, status: int, text: str, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable, install=install, audit=audit))
    python.chmod(0o700)
    environment = {**os.environ, "PYTHON": str(python), "AUDIT_LIMIT_S": "1" if "sleep" in install + audit else "60"}
    ran = subprocess.run(
        ["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert (ran.returncode, text in ran.stderr) == (status, True), ran.stderr
