"""What the service manager is told, over a real socket; and settings of it that can't be used."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.node.raft import HANDOVER_S
from syncline.platform.service_manager import LEAST_BEAT_S, ServiceManager
from syncline.server.config import ServerConfig

STOP_S = 5.0
"""What a stop in order may take."""


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(10.0)
        yield end


def lines(end: socket.socket) -> list[str]:
    return end.recv(4096).decode().splitlines()


async def next_lines(end: socket.socket) -> list[str]:
    return await asyncio.to_thread(lines, end)


async def test_service_manager_is_told_start_ready_beats_and_stop(told: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": told.getsockname(), "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    loop = asyncio.get_running_loop()
    manager = ServiceManager.of(environment)
    try:
        manager.starting(loop)
        assert await next_lines(told) == ["EXTEND_TIMEOUT_USEC=60000000", "STATUS=starting"]
        manager.ready(loop, "node a serves http://127.0.0.1:8080")
        assert await next_lines(told) == ["READY=1", "STATUS=node a serves http://127.0.0.1:8080"]
        assert [await next_lines(told) for _ in range(3)] == [["WATCHDOG=1"]] * 3
        manager.stopping()
        seen = await next_lines(told)
        while seen == ["WATCHDOG=1"]:
            seen = await next_lines(told)
        assert seen == ["STOPPING=1", "STATUS=stopping"]
    finally:
        manager.close()


async def test_service_manager_of_an_absurd_watchdog_does_not_take_the_loop(
    told: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        manager = ServiceManager.of({"NOTIFY_SOCKET": told.getsockname(), "WATCHDOG_USEC": "1"})
    assert "too late" in caplog.text
    loop = asyncio.get_running_loop()
    manager.ready(loop, "up")
    try:
        assert manager._timer is not None
        assert manager._timer.when() - loop.time() > LEAST_BEAT_S / 2
    finally:
        manager.close()


async def test_service_manager_of_an_abstract_socket_is_told() -> None:
    name = f"syncline-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name)
        end.settimeout(10.0)
        manager = ServiceManager.of({"NOTIFY_SOCKET": "@" + name})
        manager.ready(asyncio.get_running_loop(), "up")
        assert lines(end) == ["READY=1", "STATUS=up"]
        manager.close()


@pytest.mark.parametrize(
    ("environment", "watchdog_s", "logged"),
    [
        ({}, 0.0, False),
        ({"NOTIFY_SOCKET": "relative"}, 0.0, True),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "3000000"}, 3.0, False),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0, False),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "soon"}, 0.0, True),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "0"}, 0.0, True),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "9" * 400}, 0.0, True),
        ({"WATCHDOG_USEC": "3000000"}, 0.0, False),
    ],
)
def test_service_manager_settings_that_can_not_be_used_stand_for_none(
    environment: dict[str, str], watchdog_s: float, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert ServiceManager.of(environment).watchdog_s == watchdog_s
    assert bool(caplog.records) == logged


@pytest.mark.parametrize("address", ["/nowhere/notify", "/" + "x" * 300, "@a\0b"])
def test_service_manager_that_does_not_answer_is_logged_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """A node works without its manager: an error of it stops nothing."""
    manager = ServiceManager.of({"NOTIFY_SOCKET": address})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            manager.stopping()
    manager.close()
    assert [record.levelname for record in caplog.records] in (["WARNING"], [])
    if "\0" not in address:
        assert "can't be told STOPPING=1" in caplog.text


def test_stop_in_order_takes_less_than_five_seconds_by_default() -> None:
    """Requests get `drain_s` to end, the leadership transfer `HANDOVER_S`; what is left is for files."""
    assert ServerConfig(name="a", data_dir="a").drain_s + HANDOVER_S < STOP_S
