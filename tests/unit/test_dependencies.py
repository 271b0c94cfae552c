"""The rules for dependencies (CONTRIBUTING.md): each has its reason and a lower bound, and none is pinned."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: Final = PROJECT["optional-dependencies"]
NEEDED: Final = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
FORM: Final = re.compile(r"[a-zA-Z0-9_-]+(\[[a-z]+\])?>=\d+(\.\d+)*(; .+)?")


@pytest.mark.parametrize("line", NEEDED)
def test_dependency_has_a_lower_bound_alone_and_a_reason(line: str) -> None:
    assert FORM.fullmatch(line), "the oldest release that is needed, and no upper bound"
    name = re.split(r"[\[>]", line)[0]
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## Run-time dependencies")[2]
    assert re.search(rf"^\| [^|]*\b{re.escape(name)}\b", table, re.MULTILINE), (
        f"{name} has no reason in ARCHITECTURE.md"
    )


def audit(path: Path, tool: str) -> subprocess.CompletedProcess[str]:
    """Run `.ci/audit` with a Python whose environments have this program as pip and as pip-audit."""
    fake = path / "python3"
    fake.write_text(f"""#!/bin/sh
mkdir -p "$3/bin"
cat >"$3/bin/python" <<'END'
#!/bin/sh
{tool}
case "$*" in *"pip install"*) exit $INSTALL;; *) cat >/dev/null;; esac
END
cat >"$3/bin/pip-audit" <<'END'
#!/bin/sh
{tool}
echo "$TEXT" >&2
echo "$SHOWN"
exit $AUDIT
END
chmod +x "$3/bin/python" "$3/bin/pip-audit"
""")
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    environment = {**os.environ, "PYTHON": str(fake)}
    command = [str(ROOT / ".ci" / "audit")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60.0)


@pytest.mark.parametrize(
    ("tool", "status", "loud"),
    [
        ("INSTALL=1 AUDIT=0", 0, True),
        ("INSTALL=0 AUDIT=0 TEXT='No known vulnerabilities found'", 0, False),
        ("INSTALL=0 AUDIT=1 TEXT='Found 2 known vulnerabilities in 1 package'", 1, False),
        ("INSTALL=0 AUDIT=1 TEXT='ConnectionError: Max retries exceeded'", 0, True),
        ("INSTALL=0 AUDIT=0 SHOWN='click  Dependency not found on PyPI and could not be audited'", 0, True),
        ("INSTALL=0 AUDIT=2 TEXT='usage: pip-audit'", 2, False),
    ],
)
def test_audit_fails_by_findings_and_not_by_a_missing_network(
    tmp_path: Path, tool: str, status: int, loud: bool
) -> None:
    ran = audit(tmp_path, tool)
    assert ran.returncode == status, ran
    assert ("NOT AUDITED" in ran.stderr) == loud, ran
