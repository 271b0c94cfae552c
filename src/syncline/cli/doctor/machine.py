"""Checks of the machine: version, descriptors, memory, how punctual timers are, secrets."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import time
from collections.abc import Iterator
from typing import Final

from syncline.cli.doctor.disk import shown_ms
from syncline.cli.doctor.finding import Finding, Verdict
from syncline.platform.memory import memory_bytes
from syncline.server.config import ServerConfig
from syncline.version import __version__

__all__ = ["check_descriptors", "check_memory", "check_secret", "check_timers", "check_version"]

OWN_DESCRIPTORS: Final = 128
"""Kept for files and peers, beside the clients (`platform.descriptors`)."""

SMALL_MEMORY_BYTES: Final = 256 << 20

REFUSED_IF_OPEN: Final = ("peer_secret_file", "join_token_file")
"""Settings with a file that a node does not use if other users can read it."""

TICK_S, TICKS = 0.005, 60
"""Timers of the measurement: 0.3 s in all."""


def check_version() -> Finding:
    """What runs here."""
    python = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()}"
    text = f"syncline {__version__} on {python} {platform.release()}, {os.cpu_count()} processors"
    if importlib.util.find_spec("uvloop") is None:
        return Finding("version", "warn", f"{text}, without uvloop", "pip install uvloop: requests take less time")
    return Finding("version", "ok", text)


def check_descriptors(config: ServerConfig) -> Finding:
    """Whether the process may have as many descriptors as `max_connections` needs."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return Finding("descriptors", "skip", "the system has no such limit")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections + OWN_DESCRIPTORS
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        limit = "none" if hard == resource.RLIM_INFINITY else hard
        return Finding("descriptors", "ok", f"the limit is {limit}; {wanted} are needed at most")
    text = (
        f"the limit is {hard}, so {max(1, hard - OWN_DESCRIPTORS)} clients are taken, and not {config.max_connections}"
    )
    advice = f"Raise it (ulimit -Hn {wanted}; LimitNOFILE= in systemd), or set max_connections"
    return Finding("descriptors", "warn" if hard > 2 * OWN_DESCRIPTORS else "fail", text, advice)


def check_memory(config: ServerConfig) -> Finding:
    """Whether the store's limit fits the memory."""
    limit = memory_bytes()
    if not limit:
        return Finding("memory", "skip", "the system does not tell how much there is")
    text = f"{limit >> 20} MiB for the process"
    if config.max_store_bytes > limit:
        advice = "Set max_store_bytes to half of the memory: a snapshot needs some, too"
        return Finding("memory", "fail", f"{text}, and max_store_bytes is {config.max_store_bytes >> 20} MiB", advice)
    if limit < SMALL_MEMORY_BYTES:
        return Finding("memory", "warn", f"{text}: little", "A node takes about 60 MiB without keys")
    return Finding("memory", "ok", text)


async def check_timers(config: ServerConfig) -> Finding:
    """How late timers are: on an overloaded machine, or one whose processor time is limited, elections follow."""
    loop, worst = asyncio.get_running_loop(), 0.0
    for _ in range(TICKS):
        due_s = time.perf_counter() + TICK_S
        tick: asyncio.Future[None] = loop.create_future()
        loop.call_later(TICK_S, tick.set_result, None)
        await tick
        worst = max(worst, time.perf_counter() - due_s)
    text = f"a timer was at most {shown_ms(worst)} late"
    if worst >= config.election_s / 2:
        advice = "The machine is overloaded, or its processor time is limited: elections will follow"
        return Finding("timers", "fail", text, advice)
    if worst >= config.heartbeat_s / 2:
        return Finding("timers", "warn", text, "The machine is busy, or its processor time is limited")
    return Finding("timers", "ok", text)


def check_secret(config: ServerConfig) -> Iterator[Finding]:
    """Whether the files with secrets are for their owner alone. A node refuses files that are not, but for keys."""
    for name in (*REFUSED_IF_OPEN, "peer_tls_key", "http_tls_key"):
        path = str(getattr(config, name) or "")
        if not path:
            continue
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            yield Finding("permissions", "fail", f"{name} {path}: {error.strerror}", "Name another file")
            continue
        if mode & 0o077:
            verdict: Verdict = "fail" if name in REFUSED_IF_OPEN else "warn"
            yield Finding("permissions", verdict, f"{name} {path} can be read by other users", f"chmod 600 {path}")
        elif not os.access(path, os.R_OK):
            yield Finding("permissions", "fail", f"{name} {path} can't be read by this user", f"chown USER {path}")
        else:
            yield Finding("permissions", "ok", f"{name} {path} is for its owner alone")
