"""Wheel and source archive, built from this tree and installed into environments with nothing else.

The build needs a package index for `hatchling` and for what a node needs at run time, as `make install` does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest

from syncline.version import __version__
from tests.helpers.ports import free_block
from tests.helpers.process_cluster import Node, eventually

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD_S: Final = 300.0
SDIST_BYTES: Final = 12 << 20
"""Of the source archive: what is larger holds something that does not belong there."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(command: list[str], **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SYNCLINE_", "PYTHON"))}
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=BUILD_S, env={**environment, **variables}
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def environment(path: Path) -> Path:
    """A new environment; its folder of programs."""
    venv.create(path, with_pip=True)
    return path / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source archive, made from the tree, and the wheel, made from the source archive: so both are complete."""
    path = tmp_path_factory.mktemp("dist")
    tools = environment(path / "tools")
    run([str(tools / "pip"), "install", "--quiet", "build", "hatchling"])
    run([str(tools / "python"), "-m", "build", "--no-isolation", "--outdir", str(path), str(ROOT)])
    (wheel,), (archive,) = path.glob("*.whl"), path.glob("*.tar.gz")
    return {"wheel": wheel, "archive": archive}


def test_wheel_has_the_types_the_manual_and_nothing_of_the_tests(built: dict[str, Path]) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    assert "syncline/py.typed" in names
    assert f"syncline-{__version__}.data/data/share/man/man1/syncline.1" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {"syncline", f"syncline-{__version__}.dist-info", f"syncline-{__version__}.data"}
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert sources - set(names) == set()


def test_source_archive_has_what_a_build_and_an_operator_need(built: dict[str, Path]) -> None:
    with tarfile.open(built["archive"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("pyproject.toml", "LICENSE", "README.md", "deploy/Dockerfile", "docs/man/syncline.1", "Makefile"):
        assert needed in names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]
    assert built["archive"].stat().st_size < SDIST_BYTES


@pytest.mark.deadline(300.0)
@pytest.mark.parametrize("kind", ["wheel", "archive"])
async def test_package_in_a_clean_environment_serves(built: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """Nothing of the tree and of this environment is on the path."""
    programs = environment(tmp_path / "clean")
    run([str(programs / "pip"), "install", "--quiet", str(built[kind])])
    assert run([str(programs / "syncline"), "--version"]).strip() == f"syncline {__version__}"
    assert run([str(programs / "pip"), "check"])
    where = run([str(programs / "python"), "-c", "import syncline; print(syncline.__file__)"])
    assert where.startswith(str(tmp_path))
    assert (tmp_path / "clean" / "share" / "man" / "man1" / "syncline.1").exists()
    node = Installed("a", str(tmp_path), free_block(101), {})
    node.program = (str(programs / "syncline"),)
    node.start()
    try:
        async with node.client(timeout=2.0) as client:

            async def written() -> bool:
                return bool((await client.put("k", "v")).revision)

            await eventually("it takes writes", written)
        backup = str(tmp_path / "b")
        run([str(programs / "syncline"), "backup", "save", backup, "--endpoints", node.url])
        run([str(programs / "syncline"), "backup", "verify", backup])
        assert await asyncio.to_thread(node.stop) == 0
    finally:
        if node.running:
            node.kill()


class Installed(Node):
    """A node of an installed package: without the tree on its path."""

    def start(self) -> None:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with open(self.log_path, "ab") as log:
            command = self.command()
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=variables)


def test_image_context_has_what_the_build_needs(tmp_path: Path) -> None:
    """What `.dockerignore` leaves is enough for the command that the Dockerfile builds with."""
    context = tmp_path / "source"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = ROOT / line[1:], context / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, target)
    programs = environment(tmp_path / "build")
    wheels = tmp_path / "wheels"
    run([str(programs / "pip"), "wheel", "--quiet", "--wheel-dir", str(wheels), f"{context}[etcd-api]"])
    final = environment(tmp_path / "final")
    offline = ["--no-index", "--find-links", str(wheels)]
    run([str(final / "pip"), "install", "--quiet", *offline, "syncline[etcd-api]"], PIP_CONFIG_FILE=os.devnull)
    assert run([str(final / "syncline"), "--version"]).strip() == f"syncline {__version__}"


def test_package_without_extras_names_them(built: dict[str, Path], tmp_path: Path) -> None:
    programs = environment(tmp_path / "clean")
    run([str(programs / "pip"), "install", "--quiet", str(built["wheel"])])
    command = [str(programs / "syncline"), "backup", "verify", "s3://bucket/b"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60.0)
    assert ran.returncode == 2
    assert "pip install 'syncline[fsspec]'" in ran.stderr
