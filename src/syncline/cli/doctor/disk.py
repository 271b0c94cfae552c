"""Checks of the data directory and its disk: rights, kind of file system, room, and how long a sync takes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Final

from syncline.cli.doctor.finding import Finding
from syncline.platform.disk import Disk, OsDisk
from syncline.platform.texts import counted
from syncline.server.config import ServerConfig
from syncline.storage.datadir import IDENTITY_NAME

__all__ = ["check_data_dir", "check_syncs", "file_system", "measure_syncs", "quantile", "sync_verdict"]

SYNCS: Final = 200
SYNCS_LIMIT_S: Final = 3.0
"""The measurement ends with the first of these two."""

WRITE_BYTES: Final = 4096
FILE_BYTES: Final = 1 << 20
"""Taken before, as a segment of the log is: so a sync writes data alone."""

TOO_FAST_S: Final = 0.000_02
"""No device answers that fast: the file system did not wait for one."""
GOOD_S, USABLE_S = 0.01, 0.05
"""Ninety-nine in a hundred syncs below it."""

ON_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "lustre"})
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
LAYERED: Final = frozenset({"overlay", "aufs"})

ROOM_FACTOR: Final = 4
"""Segments of the log that should find room beside the reserve."""


def check_data_dir(config: ServerConfig) -> Iterator[Finding]:
    """Whether the directory can be made, read and written by this user alone, and has room."""
    path = os.path.abspath(config.data_dir)
    place = existing(path)
    user = f"uid {os.geteuid()}"
    if place != path:
        if os.access(place, os.W_OK | os.X_OK) and os.path.isdir(place):
            yield Finding("data-dir", "ok", f"{path} is not there, and can be made in {place}")
        else:
            advice = f"Make {path}, and give it to the user that runs the node"
            yield Finding("data-dir", "fail", f"{path} is not there, and {user} can't make it in {place}", advice)
            return
    else:
        yield from _check_rights(path, user)
    yield _check_file_system(place)
    yield _check_room(place, config)


def _check_rights(path: str, user: str) -> Iterator[Finding]:
    if not os.path.isdir(path):
        yield Finding("data-dir", "fail", f"{path} is no directory", "Name another one with --data-dir")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        advice = f"Run the node as the owner, or: chown -R USER {path}"
        yield Finding("data-dir", "fail", f"{path} can't be read and written by {user}", advice)
        return
    about = os.stat(path)
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        advice = f"chmod go-w {path}"
        yield Finding("data-dir", "warn", f"other users may change files in {path}", advice)
    elif about.st_mode & stat.S_IROTH and os.path.lexists(os.path.join(path, IDENTITY_NAME)):
        yield Finding("data-dir", "warn", f"every user of the machine may read {path}", f"chmod o-rwx {path}")
    else:
        yield Finding("data-dir", "ok", f"{path} belongs to uid {about.st_uid}, and {user} can write it")
    foreign = [name for name in sorted(os.listdir(path)) if not os.access(os.path.join(path, name), os.R_OK | os.W_OK)]
    if foreign:
        text = f"{counted(len(foreign), 'file')} in {path} can't be read and written by {user}, such as {foreign[0]}"
        yield Finding("data-dir", "fail", text, f"Was a node run by another user? chown -R USER {path}")


def _check_file_system(place: str) -> Finding:
    kind = file_system(place)
    if kind in IN_MEMORY:
        text = f"{place} is on {kind}, in memory: all data end with the machine"
        return Finding("file-system", "fail", text, "Choose a directory on a disk")
    if kind in ON_NETWORK:
        text = f"{place} is on {kind}, over the network: its outages and its delays are the node's"
        return Finding("file-system", "warn", text, "Choose a local disk: the nodes make the copies")
    if kind in LAYERED:
        text = f"{place} is on {kind}, a container's own layer: it ends with the container"
        return Finding("file-system", "warn", text, "Mount a volume for the data directory")
    return Finding(
        "file-system", "ok" if kind else "skip", f"{place} is on {kind}" if kind else "the system tells none"
    )


def _check_room(place: str, config: ServerConfig) -> Finding:
    free = OsDisk().free_bytes(place)
    wanted = config.reserve_bytes + ROOM_FACTOR * config.segment_bytes + 2 * config.snapshot_bytes
    text = f"{free >> 20} MiB are free at {place}"
    if free <= config.reserve_bytes:
        advice = "Make room; or choose a smaller reserve_bytes"
        return Finding("disk-space", "fail", f"{text}, and {config.reserve_bytes >> 20} are kept in reserve", advice)
    if free < wanted:
        return Finding("disk-space", "warn", f"{text}; log and snapshots may take {wanted >> 20}", "Make room")
    return Finding("disk-space", "ok", text)


def check_syncs(config: ServerConfig) -> Finding:
    """How long a sync takes on the disk of the data directory."""
    place = existing(os.path.abspath(config.data_dir))
    try:
        syncs = measure_syncs(place)
    except OSError as error:
        return Finding("disk-speed", "skip", f"nothing can be written to {place}: {error.strerror}")
    return sync_verdict(syncs, config.election_s)


def measure_syncs(directory: str, disk: Disk | None = None) -> list[float]:
    """The times of syncs, in ascending order: writes of 4 KiB to a file that is removed again. Raises `OSError`."""
    disk = disk or OsDisk()
    path = os.path.join(directory, f".syncline-doctor-{os.getpid()}")
    took: list[float] = []
    file = disk.open(path, create=True, write=True)
    try:
        file.allocate(FILE_BYTES)
        file.sync()
        end_s = time.perf_counter() + SYNCS_LIMIT_S
        data = os.urandom(WRITE_BYTES)
        for number in range(SYNCS):
            began_s = time.perf_counter()
            if began_s > end_s:
                break
            file.write_at(number * WRITE_BYTES % FILE_BYTES, data)
            file.sync()
            took.append(time.perf_counter() - began_s)
    finally:
        file.close()
        disk.remove(path)
    return sorted(took)


def sync_verdict(syncs: Sequence[float], election_s: float) -> Finding:
    """What such a disk is good for. `syncs`: in ascending order."""
    median, high = quantile(syncs, 0.5), quantile(syncs, 0.99)
    text = f"a sync takes {shown_ms(median)}, 99 in 100 at most {shown_ms(high)}"
    if median < TOO_FAST_S:
        advice = "Is it a disk? What is acknowledged may be lost with the power"
        return Finding("disk-speed", "warn", f"{text}: faster than any device, so the system does not wait", advice)
    if high >= election_s / 2:
        advice = "Use a local SSD; or raise election_s on all nodes"
        return Finding("disk-speed", "fail", f"{text}: a leader on it would lose its place", advice)
    if high > USABLE_S:
        return Finding("disk-speed", "warn", f"{text}: slow, and each write waits for it", "Use a local SSD of its own")
    if high > GOOD_S:
        return Finding("disk-speed", "ok", f"{text}: usable; each write waits for it")
    return Finding("disk-speed", "ok", f"{text}: good")


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the ascending values do not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))]


def shown_ms(seconds: float) -> str:
    """A time in milliseconds, with two digits that mean something."""
    return f"{seconds * 1000:.3g} ms"


def existing(path: str) -> str:
    """The path, or the nearest directory above it that is there."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def file_system(path: str, mounts: str = "/proc/self/mounts") -> str:
    """The kind of the file system that holds a path, such as `ext4`; empty if the system does not tell."""
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split(" ")[:3] for line in file]
    except OSError:
        return ""  # not this kind of system
    path, best, kind = os.path.realpath(path), "", ""
    for row in rows:
        if len(row) < 3:
            continue
        point = row[1].encode("utf-8", "surrogateescape").decode("unicode_escape")  # a space is \040
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, row[2]
    return kind
