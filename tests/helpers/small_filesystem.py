"""File systems that are mounted for one test: one that is soon full, and one whose disk fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["FailingDisk", "failing_disk", "mounted"]


@contextmanager
def mounted(path: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs at `path`, which is made. Skips the test where it can't be mounted: that takes root."""
    path.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system can't be mounted here")
    try:
        yield path
    finally:
        subprocess.run([umount, "--lazy", str(path)], check=True)


class FailingDisk:
    """A file system of a real kernel at `path`, whose disk takes no more bytes when it is told to.

    The disk is a sparse file on a small tmpfs, behind a loop device. The file system on it has plenty of space, so
    writes go well, into the cache; only the sync finds out that the disk does not take them.
    """

    def __init__(self, path: Path, below: Path) -> None:
        self.path = path
        self._below = below

    def fail(self) -> None:
        """From now on what is written can't reach the disk."""
        with open(self._below / "ballast", "wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(1 << 16))
            except OSError:
                pass  # the tmpfs is full


@contextmanager
def failing_disk(path: Path, size_bytes: int = 24 << 20) -> Iterator[FailingDisk]:
    """An ext4 on a loop device. Skips the test, and says why, if that can't be had: it takes root and loop devices."""
    tools = {name: shutil.which(name) for name in ("mount", "umount", "losetup", "mkfs.ext4")}
    if os.geteuid() != 0 or not all(tools.values()):
        pytest.skip("NOT CHECKED on a real disk that fails: that takes root, mount, losetup and mkfs.ext4")
    with mounted(path, size_bytes) as below:
        image, mount_point = below / "image", below / "disk"
        with open(image, "wb") as file:
            file.truncate(256 << 20)
        mount_point.mkdir()
        made = ["mkfs.ext4", "-q", "-O", "^has_journal", str(image)]
        device = ""
        try:
            if subprocess.run(made, check=False, capture_output=True).returncode == 0:
                asked = ["losetup", "--find", "--show", str(image)]
                device = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()
            if not device or subprocess.run(["mount", device, str(mount_point)], check=False).returncode != 0:
                pytest.skip("NOT CHECKED on a real disk that fails: there is no loop device here")
            try:
                yield FailingDisk(mount_point, below)
            finally:
                subprocess.run(["umount", "--lazy", str(mount_point)], check=True)
        finally:
            if device:
                subprocess.run(["losetup", "--detach", device], check=True)
