"""A network in memory: hosts with names, connections like TCP's, and every fault on demand. One seed decides all.

    network = SimNetwork(random.Random(seed))
    a, b = network.host("a"), network.host("b")        # each is a `platform.network.Network`
    network.cut("a", "b", one_way=True)                 # what a sends to b does not arrive until `heal`

Works on any event loop; with `SimLoop` no time passes outside.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import random
import ssl
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Final

from syncline.platform.network import Listener, ProtocolFactory
from syncline.testing.sim.transport import WINDOW_BYTES, ControlSegment, Pipe, SimTransport

__all__ = ["SimHost", "SimNetwork"]

LATENCY_S: Final = (0.0002, 0.001)
"""The usual time of a packet on its way, from and to: a local network."""

SYN_RETRY_S: Final = 1.0
"""A greeting that got no answer is sent again after this long, as by Linux for its first try."""

RESEND_LIMIT_S: Final = 1.0
"""After a cut what was lost is sent again within this time; real TCP may wait longer the longer the cut was."""

LINE_BUFFER_S: Final = 0.25
"""The buffers of a slow line hold what it sends in this time: the usual rule for routers."""

LEAST_WINDOW_BYTES: Final = 16 * 1024
"""TCP's first window, about: each connection may have so much on a line, however slow."""

EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104 - names that a listener may give


class SimHost:
    """A machine on the network, by its name. It is the `Network` of the processes on it."""

    def __init__(self, name: str, network: SimNetwork) -> None:
        self.name = name
        self.up = True
        self.is_apart = False
        self.crashes = 0
        self.listeners: dict[int, _Listener] = {}
        self._network = network

    async def listen(
        self, factory: ProtocolFactory, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> Listener:
        """Bind a port of this host (0: any)."""
        assert tls is None, "the simulated network has no TLS"
        if host != self.name and host not in EVERYWHERE:
            raise OSError(errno.EADDRNOTAVAIL, f"can't listen on {host}:{port}: this is host {self.name}")
        port = port or self._network.free_port()
        if port in self.listeners:
            raise OSError(errno.EADDRINUSE, f"can't listen on {host}:{port}: another process holds the port")
        listener = self.listeners[port] = _Listener(self, port, factory, contextvars.copy_context())
        return listener

    async def connect(
        self,
        factory: ProtocolFactory,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Dial a port of a host by its name."""
        assert tls is None, "the simulated network has no TLS"
        attempt = _Attempt(self._network, self, (host, port), factory)
        try:
            async with asyncio.timeout(timeout_s):
                transport = await attempt.run()
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from error
        return transport, transport.get_protocol()


class _Listener:
    def __init__(self, host: SimHost, port: int, factory: ProtocolFactory, context: contextvars.Context) -> None:
        self.factory = factory
        self.context = context
        self._host = host
        self._port = port

    @property
    def address(self) -> tuple[str, int]:
        return self._host.name, self._port

    async def close(self) -> None:
        if self._host.listeners.get(self._port) is self:
            del self._host.listeners[self._port]


class _Attempt:
    """A dial: packets there and back, again and again while none comes back."""

    def __init__(self, network: SimNetwork, source: SimHost, target: tuple[str, int], factory: ProtocolFactory) -> None:
        self._network = network
        self._source = source
        self._life = source.crashes
        self._target = target
        self._factory = factory
        self._context = contextvars.copy_context()
        self._answer: asyncio.Future[SimTransport] = asyncio.get_running_loop().create_future()
        self._timers: list[asyncio.TimerHandle] = []

    async def run(self) -> SimTransport:
        if self._target[0] not in self._network.hosts:
            raise OSError(errno.EHOSTUNREACH, f"the host name {self._target[0]!r} can't be resolved")
        self._send()
        try:
            return await self._answer
        finally:
            for timer in self._timers:
                timer.cancel()

    def _send(self) -> None:
        network, source, target = self._network, self._source.name, self._target[0]
        if self._source.crashes != self._life:
            return  # the process that dialled is gone
        self._timers = [network.later(SYN_RETRY_S, self._send)]
        if not network.is_cut(source, target):
            self._timers.append(network.later(network.transit_s(source, target), self._reached))

    def _reached(self) -> None:
        network, source, target = self._network, self._source.name, self._target[0]
        if not network.is_up(target) or network.is_cut(target, source):
            return
        self._timers.append(network.later(network.transit_s(target, source), self._answered))

    def _answered(self) -> None:
        if self._answer.done() or self._source.crashes != self._life:
            return
        listener = self._network.hosts[self._target[0]].listeners.get(self._target[1])
        if listener is None:
            self._answer.set_exception(ConnectionRefusedError(errno.ECONNREFUSED, "nothing listens there"))
            return
        for timer in self._timers:
            timer.cancel()
        self._network.join(self._source, self._factory, self._context, listener, self._opened)

    def _opened(self, transport: SimTransport) -> None:
        if self._answer.done():
            transport.abort()  # given up at the same moment
        else:
            self._answer.set_result(transport)


class SimNetwork:
    """The network and its faults. Made on a running event loop. Hosts are named by their names, in any order.

    `on_event(line)`, if set, gets a line for each packet and each fault: the trace of a run.
    """

    def __init__(self, rng: random.Random, *, latency_s: tuple[float, float] = LATENCY_S) -> None:
        self.hosts: dict[str, SimHost] = {}
        self.latency_s = latency_s
        self.on_event: Callable[[str], None] | None = None
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        # The network belongs to no node: its timers run, and its clock is read, outside of all of them.
        self._context = contextvars.Context()
        self._clock = contextvars.Context()
        self._cuts: dict[tuple[str, str], float] = {}
        self._latencies: dict[tuple[str, str], tuple[float, float]] = {}
        self._speeds: dict[tuple[str, str], float] = {}
        self._line_free_s: dict[tuple[str, str], float] = {}
        self._ends: dict[SimTransport, SimTransport] = {}
        self._pipes: dict[tuple[str, str], dict[Pipe, None]] = {}
        self._last_port = 20_000

    def host(self, name: str) -> SimHost:
        """The host of that name; made at the first call."""
        if name not in self.hosts:
            self.hosts[name] = SimHost(name, self)
        return self.hosts[name]

    def host_apart(self, name: str) -> SimHost:
        """The host of that name, which stays connected with both sides of a `partition`: only a `cut` separates it."""
        host = self.host(name)
        host.is_apart = True
        return host

    # -- faults

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Let nothing through from `one` to `other` (nor back, unless `one_way`).

        The ends do not notice; bytes wait.
        """
        for pair in [(one, other)] if one_way else [(one, other), (other, one)]:
            self._cuts.setdefault(pair, self.now())
            self.trace(*pair, "cut")

    def heal(self, one: str, other: str) -> None:
        """End a cut, in both directions."""
        for pair in ((one, other), (other, one)):
            since_s = self._cuts.pop(pair, None)
            if since_s is not None:
                self.trace(*pair, "healed")
                delay_s = self._rng.uniform(0.0, min(RESEND_LIMIT_S, self.now() - since_s))
                for pipe in [*self._pipes.get(pair, ()), *self._pipes.get(pair[::-1], ())]:
                    pipe.healed(delay_s)

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every pair whose two hosts are in different groups, and heal all others."""
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        for one, other in combinations([name for name, host in self.hosts.items() if not host.is_apart], 2):
            if group_of.get(one) != group_of.get(other):
                self.cut(one, other)
            else:
                self.heal(one, other)

    def heal_all(self) -> None:
        """End every cut, and every slowness."""
        for one, other in list(self._cuts):
            self.heal(one, other)
        slow = list(self._speeds)
        self._latencies.clear()
        self._speeds.clear()
        self._line_free_s.clear()
        for pair in slow:
            for pipe in self._pipes.get(pair, ()):
                pipe.sped_up()

    def reset(self, one: str, other: str) -> None:
        """Reset the connections between two hosts; both ends get `connection_lost`."""
        for end, peer in list(self._ends.items()):
            if {end.host, peer.host} == {one, other} and not end.lost:
                self.trace(end.host, peer.host, "reset by the network")
                end.break_off(ConnectionResetError("the network reset the connection"))
                peer.break_off(ConnectionResetError("the network reset the connection"))
                self._stop_pipes(end, peer)

    def hold_back(self, one: str, other: str, late_s: float, *, only: int | None = None) -> None:
        """Packets of `one` to `other` on the connections of now takes `late_s` longer, on new ones it does not.

        With a number `only` one of the connections is late: the same number chooses the same one while none comes or
        goes.
        """
        ends = self._open_ends(one, other)
        for end in ends if only is None or not ends else [ends[only % len(ends)]]:
            self.trace(one, other, f"{late_s:.3f} s late")
            if end.output is not None:
                end.output.late_s = late_s

    def lose(self, one: str, other: str) -> None:
        """End `one`'s side of its connections to `other`. The other side ends when all bytes on their way have
        arrived.

        Those may arrive behind the bytes of a new connection, and be sent there once more.
        """
        for end in self._open_ends(one, other):
            self.trace(one, other, "lost at one end")
            end.reset(ConnectionResetError("the network reset the connection"))

    def _open_ends(self, one: str, other: str) -> list[SimTransport]:
        return [end for end, peer in self._ends.items() if (end.host, peer.host) == (one, other) and not end.lost]

    def slow(
        self, one: str, other: str, *, latency_s: tuple[float, float] | None = None, bytes_per_s: float | None = None
    ) -> None:
        """Change the time that packets take between two hosts, or the speed of the line, in both directions."""
        for pair in ((one, other), (other, one)):
            if latency_s is not None:
                self._latencies[pair] = latency_s
            if bytes_per_s is not None:
                self._speeds[pair] = bytes_per_s

    def crash(self, name: str, *, silent: bool = False) -> None:
        """The processes of a host are gone: its ports are free, its ends dead. `SimNode.kill` stops the code.

        The system of the host resets the connections; with `silent` it is gone too (a power loss), and answers
        nothing until `boot`.
        """
        host = self.hosts[name]
        host.listeners.clear()
        host.crashes += 1
        host.up = not silent
        for end in [end for end in self._ends if end.host == name]:
            if not silent and not end.lost and end.output is not None:
                end.output.push(ControlSegment.RESET)
            end.die()
        self.trace(name, name, "power loss" if silent else "crash")

    def boot(self, name: str) -> None:
        """The machine runs again; what comes for connections of its earlier life is answered with a reset."""
        self.hosts[name].up = True
        self.trace(name, name, "boot")

    # -- for hosts and connections

    def join(
        self,
        source: SimHost,
        factory: ProtocolFactory,
        context: contextvars.Context,
        listener: _Listener,
        opened: Callable[[SimTransport], None],
    ) -> None:
        """Make the two ends of a connection. The listener's is established when the dialler's last packet arrives."""
        here = (source.name, self.free_port())
        there = listener.address
        near = SimTransport(self, source.name, here, there, factory, context)
        far = SimTransport(self, there[0], there, here, listener.factory, listener.context.copy())
        near.output = far.input = self._pipe(near, far)
        far.output = near.input = self._pipe(far, near)
        self._ends[near] = far
        self._ends[far] = near
        self.trace(source.name, there[0], f"open {here[1]} to {there[1]}")
        near.output.push(ControlSegment.OPEN)
        near.open(lambda: opened(near))

    def _pipe(self, source: SimTransport, target: SimTransport) -> Pipe:
        pipe = Pipe(self, source, target)
        self._pipes.setdefault((source.host, target.host), {})[pipe] = None
        return pipe

    def _stop_pipes(self, end: SimTransport, peer: SimTransport) -> None:
        for pipe, pair in ((end.output, (end.host, peer.host)), (end.input, (peer.host, end.host))):
            if pipe is not None:
                pipe.stop()
                self._pipes[pair].pop(pipe, None)

    def forget(self, end: SimTransport) -> None:
        """An end is gone; the connection is dropped when both are gone and no byte is on its way."""
        peer = self._ends.get(end)
        if peer is not None and (peer.lost or peer.dead):
            del self._ends[end], self._ends[peer]
            self.later(0.0, lambda: self._stop_pipes(end, peer))

    def now(self) -> float:
        return self._clock.run(self._loop.time)

    def later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_s, callback, context=self._context)

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cuts

    def is_up(self, host: str) -> bool:
        return self.hosts[host].up

    def transit_s(self, source: str, target: str) -> float:
        return self._rng.uniform(*self._latencies.get((source, target), self.latency_s))

    def transmitted_s(self, source: str, target: str, size: int) -> float:
        """All connections of two hosts share a line of limited speed, first come, first served."""
        pair, now_s = (source, target), self.now()
        speed = self._speeds.get(pair)
        if speed is None:
            return now_s
        self._line_free_s[pair] = free_s = max(now_s, self._line_free_s.get(pair, 0.0)) + size / speed
        return free_s

    def window_bytes(self, source: str, target: str) -> int:
        """As much as the buffers on the way hold; those of a slow line are small."""
        speed = self._speeds.get((source, target))
        if speed is None:
            return WINDOW_BYTES
        round_trip_s = 2 * self._latencies.get((source, target), self.latency_s)[1]
        return min(WINDOW_BYTES, max(LEAST_WINDOW_BYTES, int(speed * (LINE_BUFFER_S + round_trip_s))))

    def cut_off(self, size: int) -> int:
        """One packet in eight is cut somewhere: a reader must cope with any piece."""
        return self._rng.randint(1, size) if self._rng.random() < 0.125 else size

    def trace(self, source: str, target: str, event: str) -> None:
        if self.on_event is not None:
            self.on_event(f"{self.now():.6f} {source} → {target} {event}")

    def free_port(self) -> int:
        self._last_port += 1
        return self._last_port
