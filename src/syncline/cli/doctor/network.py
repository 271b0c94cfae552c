"""Checks of the network: names, own ports, and the ports of the other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from syncline.cli.doctor.disk import shown_ms
from syncline.cli.doctor.finding import Finding
from syncline.errors import ConfigError
from syncline.platform.resolver import Resolver
from syncline.server.addresses import split_address
from syncline.server.config import ServerConfig

__all__ = ["OwnServer", "check_names", "check_peers", "check_ports", "is_loopback"]

OwnServer = Literal["none", "starting", "running"]
"""A server of Syncline that has not told its name."""

PATIENCE_S: Final = 5.0
SLOW_LOOKUP_S: Final = 1.0
PROBES: Final = 5


def hosts_of(config: ServerConfig) -> dict[str, str]:
    """The host names of the settings, each with the setting that has it."""
    found: dict[str, str] = {}
    for name, address in config.initial_cluster.items():
        found.setdefault(split_address(address)[0], f"initial_cluster: {name}")
    for setting in ("peer_advertise", "peer_listen", "http_listen"):
        if address := str(getattr(config, setting)):
            found.setdefault(split_address(address, any_port=True)[0], setting)
    for url in (*config.join, *([config.http_advertise] if config.http_advertise else [])):
        found.setdefault(urlsplit(url).hostname or "", "join, http_advertise")
    return {host: setting for host, setting in found.items() if host and not _is_address(host)}


async def check_names(config: ServerConfig) -> AsyncIterator[Finding]:
    """Look up each host name of the settings."""
    names, resolver = hosts_of(config), Resolver()
    if not names:
        yield Finding("dns", "ok", "the settings have addresses, and no names")
    for host, setting in names.items():
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S):
                answers = await resolver.addresses(host, 1)
        except TimeoutError:
            text = f"{host} ({setting}): no answer within {PATIENCE_S:g} s"
            yield Finding("dns", "fail", text, "Is the name server reachable? See /etc/resolv.conf")
            continue
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            advice = "Correct the name, or add it to DNS or /etc/hosts"
            yield Finding("dns", "fail", f"{host} ({setting}): {reason}", advice)
            continue
        took_s = time.perf_counter() - began_s
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        text = f"{host} is {', '.join(addresses)}"
        advertised = setting.startswith(("peer_advertise", "initial_cluster"))
        if advertised and host != "localhost" and all(map(is_loopback, addresses)):
            advice = "Other machines that look it up the same way reach themselves: see /etc/hosts"
            yield Finding("dns", "warn", f"{text}, a loopback address ({setting})", advice)
        elif took_s > SLOW_LOOKUP_S:
            yield Finding("dns", "warn", f"{text}; the lookup took {took_s:.1f} s", "Is a name server down?")
        else:
            yield Finding("dns", "ok", f"{text}, after {shown_ms(took_s)}")


def check_ports(
    config: ServerConfig, ours: Mapping[tuple[str, int], str], own: OwnServer = "none"
) -> Iterable[Finding]:
    """Whether the node's own ports are free. `ours`: ports at which a node of Syncline answers, with its name.

    `own`: what answers at `http_listen`. Its peer port tells nothing, and is taken for that of the same node.
    """
    for setting, address in (("http_listen", config.http_listen), ("peer_listen", config.peer_listen)):
        if not address:
            continue
        host, port = split_address(address, any_port=True)
        if port == 0:
            yield Finding("port", "ok", f"{setting} {address}: any free port")
            continue
        error = _bind_error(host, port)
        if error is None:
            yield Finding("port", "ok", f"{setting} {address} is free")
        elif error.errno == errno.EADDRINUSE:
            node = ours.get((setting, port))
            if node is not None:
                yield Finding("port", "ok", f"{setting} {address} is held by the running node {node}")
            elif own == "starting":
                yield Finding("port", "ok", f"{setting} {address} is in use, and a node that is starting answers here")
            elif own == "running":
                text = f"{setting} {address} is in use, and a node answers here that has not told its name"
                yield Finding("port", "warn", text, "Is it this node? Else choose another port")
            else:
                advice = f"Stop that program (ss -ltnp 'sport = :{port}' names it), or choose another port"
                yield Finding("port", "fail", f"{setting} {address} is in use by another program", advice)
        elif error.errno == errno.EACCES:
            text = f"{setting} {address}: this user may not listen on port {port}"
            yield Finding("port", "fail", text, "Choose a port above 1023")
        elif error.errno == errno.EADDRNOTAVAIL:
            text = f"{setting} {address}: {host} is no address of this machine"
            yield Finding("port", "fail", text, "Choose one of this machine, or 0.0.0.0")
        else:
            yield Finding("port", "fail", f"{setting} {address}: {error.strerror or error}", "Choose another address")


def _bind_error(host: str, port: int) -> OSError | None:
    try:
        [first, *_] = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return error
    with socket.socket(first[0], first[1]) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(first[4])
            probe.listen(1)  # with SO_REUSEADDR, only this finds a listener
        except OSError as error:
            return error
    return None


async def check_peers(config: ServerConfig) -> AsyncIterator[Finding]:
    """Dial the peer port of each initial member that is not this node."""
    others = {name: address for name, address in config.initial_cluster.items() if name != config.name}
    if not others:
        yield Finding("peers", "skip", "the settings name no other node (initial_cluster)")
    for name, address in others.items():
        try:
            times = [await _dial_s(address) for _ in range(PROBES)]
        except TimeoutError:
            text = f"{name} at {address} does not answer within {PATIENCE_S:g} s"
            yield Finding("peers", "warn", text, "Is the machine up? Does a firewall drop the port?")
        except (OSError, ConfigError) as error:
            reason = getattr(error, "strerror", None) or error
            text = f"{name} at {address}: {str(reason).lower()}"
            yield Finding("peers", "warn", text, "Is the node up, and does it listen on that address?")
        else:
            best = min(times)
            text = f"{name} at {address} is reached, a round trip takes {shown_ms(best)}"
            if best > config.heartbeat_s / 2:
                advice = "Raise heartbeat_s and election_s on all nodes"
                yield Finding("peers", "warn", f"{text}: half a heartbeat or more", advice)
            else:
                yield Finding("peers", "ok", text)


async def _dial_s(address: str) -> float:
    host, port = split_address(address)
    began_s = time.perf_counter()
    async with asyncio.timeout(PATIENCE_S):
        _, writer = await asyncio.open_connection(host, port)
    took_s = time.perf_counter() - began_s
    writer.close()
    with contextlib.suppress(OSError):  # it was reached, whatever it does then
        await writer.wait_closed()
    return took_s


def is_loopback(host: str) -> bool:
    """Whether a host is an address of loopback, or localhost."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
