"""Checks of a running cluster from here: whether it answers, its versions, and its clocks against this one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec

from syncline.cli.asking import ask
from syncline.cli.common import Context
from syncline.cli.doctor.finding import NO_NAME, Finding
from syncline.cli.doctor.network import OwnServer, is_loopback
from syncline.cli.survey import Survey, survey_of
from syncline.client.schemas import ErrorAnswer, VersionReply
from syncline.errors import ConfigError, OperationError, Unauthenticated, Unreachable
from syncline.platform.texts import counted
from syncline.server.addresses import split_address
from syncline.server.config import ServerConfig
from syncline.transport.candidates import is_wildcard
from syncline.version import __version__

__all__ = ["KnownPorts", "look_at_cluster"]

SKEW_S: Final = 2.0
"""Above it the clocks are told to differ. `Date` has whole seconds, so less can't be seen."""


OWN_S: Final = 2.0
"""For the answer of the node on this machine."""

OK: Final = 200
STARTING: Final = "starting"
"""The code of a node that is not open yet."""


class KnownPorts(msgspec.Struct):
    """What the other checks use of the cluster."""

    ports: dict[tuple[str, int], str] = {}
    """Ports of nodes on this machine that have answered, by setting, with the node's name."""
    own: OwnServer = "none"
    """What answers at the settings' HTTP address, if no node there has told its name."""


async def look_at_cluster(context: Context, config: ServerConfig, known: KnownPorts) -> AsyncIterator[Finding]:
    """Ask the cluster, and fill `known`."""
    known.own = await _own_server(context, config)
    try:
        survey = await survey_of(context)
    except Unauthenticated as error:
        yield Finding("cluster", "fail", str(error), "Give --user NAME, or --token-file FILE")
        return
    except OperationError as error:
        if error.code == STARTING:
            yield Finding("cluster", "warn", str(error), "Wait until it is open, or name another node with --endpoints")
        elif context.endpoints_given or not isinstance(error, Unreachable):
            yield Finding("cluster", "fail", str(error), "Name a node that runs with --endpoints")
        else:
            text = "no cluster answers at the default endpoints"
            yield Finding("cluster", "skip", text, "Name one with --endpoints to have versions and clocks checked")
        return
    except ConfigError as error:
        yield Finding("cluster", "fail", str(error), "Name nodes of one cluster with --endpoints")
        return
    for row in survey.members:
        for setting, address in (("http_listen", row.http), ("peer_listen", row.peer)):
            if not (address and row.reachable and row.name):
                continue
            host, port = _address_of(address)
            if row.name == config.name or (config.name == NO_NAME and is_loopback(host)):
                known.ports[setting, port] = row.name
    if survey.leader is None:
        yield Finding(
            "cluster", "fail", f"no leader: {survey.no_leader}", "See docs/logs.md, why there was an election"
        )
    else:
        yield Finding("cluster", "ok", f"{survey.leader} leads, {counted(survey.size, 'member')}")
    for row in survey.members:
        if not row.reachable:
            name = row.name or row.http or "?"
            yield Finding("cluster", "warn", f"{name} does not answer: {row.error}", "Start it, or look at its log")
    for finding in _check_versions(survey):
        yield finding
    async for finding in _check_clocks(context, survey):
        yield finding


def _check_versions(survey: Survey) -> Iterator[Finding]:
    versions: dict[str, list[str]] = {}
    for row in survey.members:
        if row.version:
            versions.setdefault(row.version, []).append(row.name or "?")
    told = "; ".join(f"{version} on {', '.join(names)}" for version, names in sorted(versions.items()))
    if len(versions) > 1:
        advice = "Upgrade the others, or go back: docs/upgrades.md"
        yield Finding("versions", "warn", f"the nodes run different versions: {told}", advice)
    elif versions and __version__ not in versions:
        yield Finding(
            "versions", "warn", f"the nodes run {told}, and this command is {__version__}", "Upgrade one of them"
        )
    elif versions:
        yield Finding("versions", "ok", f"all nodes that answer, and this command, are {__version__}")


async def _own_server(context: Context, config: ServerConfig) -> OwnServer:
    """Ask at the settings' HTTP address. A node that starts, or wants a credential, is in no survey."""
    host, port = split_address(config.http_listen, any_port=True) if config.http_listen else ("", 0)
    if port == 0:
        return "none"
    place = "127.0.0.1" if is_wildcard(host) else f"[{host}]" if ":" in host else host
    try:
        url = f"{'https' if config.http_tls_cert else 'http'}://{place}:{port}"
        answer = await ask(context, url, "/version", timeout_s=OWN_S)
        found = msgspec.json.decode(answer.body, type=VersionReply if answer.status == OK else ErrorAnswer)
    except (OperationError, ConfigError, msgspec.MsgspecError):
        return "none"
    if isinstance(found, VersionReply):
        return "running"
    if found.error.outcome is None:
        return "none"  # another program, with errors of the same form
    return "starting" if found.error.code == STARTING else "running"


async def _check_clocks(context: Context, survey: Survey) -> AsyncIterator[Finding]:
    for row in survey.members:
        if not (row.reachable and row.http):
            continue
        before_s = time.time()
        try:
            answer = await ask(context, row.http, "/version")
        except OperationError as error:
            yield Finding("clock", "skip", f"{row.name}: {error}")
            continue
        after_s = time.time()
        date = answer.headers.get("date", "")
        try:
            there_s = parsedate_to_datetime(date).timestamp()
        except ValueError:
            yield Finding("clock", "skip", f"{row.name} sends no readable Date")
            continue
        # The other clock showed a time from `there_s` to a second later, between the two looks at this one.
        skew_s = there_s - after_s if there_s > after_s else min(0.0, there_s + 1 - before_s)
        if abs(skew_s) > SKEW_S:
            text = f"the clock of {row.name} is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this one"
            advice = "Run an NTP client on both: certificates, entry times and log lines go by the clock; Raft does not"
            yield Finding("clock", "warn", text, advice)
        else:
            yield Finding("clock", "ok", f"the clock of {row.name} agrees with this one, to {SKEW_S:g} s")


def _address_of(address: str) -> tuple[str, int]:
    plain = address.partition("://")[2].partition("/")[0] if "://" in address else address
    return split_address(plain)
