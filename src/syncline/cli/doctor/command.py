"""`doctor`: check this machine, and the settings of a node, before it starts or when it has trouble."""

from __future__ import annotations

import os

import click

from syncline.cli.announced import asks_members
from syncline.cli.common import Context, client_command
from syncline.cli.doctor.certificates import check_certificates
from syncline.cli.doctor.cluster import KnownPorts, look_at_cluster
from syncline.cli.doctor.disk import check_data_dir, check_syncs
from syncline.cli.doctor.finding import NO_NAME, Finding, summary_of, verdict_of
from syncline.cli.doctor.machine import check_descriptors, check_memory, check_secret, check_timers, check_version
from syncline.cli.doctor.network import check_names, check_peers, check_ports
from syncline.cli.exits import EXIT_FAILED, Told, one_line
from syncline.cli.output import print_json, print_line
from syncline.errors import ConfigError
from syncline.server.config import ServerConfig, load_config

__all__ = ["doctor", "examine"]


@click.command("doctor", short_help="Check this machine for a node.")
@client_command
@asks_members
@click.option(
    "--config", "config_file", type=click.Path(dir_okay=False), help="The settings of the node, as with serve."
)
@click.option("--data-dir", metavar="DIR", help="Its data directory.  [default: that of --config, else here]")
@click.option("--skip-disk-speed", is_flag=True, help="Write nothing to the disk.")
async def doctor(context: Context, *, config_file: str | None, data_dir: str | None, skip_disk_speed: bool) -> None:
    """Check what a node needs of this machine: one line for each check, with what to do.

    Version, data directory, kind and speed of the disk, room, descriptors, memory, timers, ports, names, other nodes;
    and, of a cluster that answers, its versions and clocks. Settings come from --config and the environment. The
    disk is measured with a file of 1 MiB that is removed again.

    Exit status 0 if no check has failed (warnings are no failure), else 1.
    """
    findings = await examine(context, config_file=config_file, data_dir=data_dir, disk_speed=not skip_disk_speed)
    verdict = verdict_of(findings)
    if context.as_json:
        print_json({"verdict": verdict, "checks": findings})
    else:
        for finding in findings:
            print_line(one_line_of(finding))
        print_line(summary_of(findings))
    if verdict == "fail":
        raise Told(EXIT_FAILED)


def one_line_of(finding: Finding) -> str:
    """The line, without what a terminal would obey."""
    head, text = finding.line[:20], finding.line[20:]
    return head + one_line(text)


async def examine(
    context: Context, *, config_file: str | None, data_dir: str | None, disk_speed: bool = True
) -> list[Finding]:
    """Make all checks."""
    findings = [check_version()]
    config, trouble = _settings(config_file, data_dir)
    findings += trouble
    known = KnownPorts()
    cluster = [finding async for finding in look_at_cluster(context, config, known)]
    findings += check_data_dir(config)
    if disk_speed:
        findings.append(check_syncs(config))
    findings += [check_descriptors(config), check_memory(config), await check_timers(config)]
    findings += check_secret(config)
    findings += check_certificates(config)
    findings += check_ports(config, known.ports, known.own)
    findings += [finding async for finding in check_names(config)]
    findings += [finding async for finding in check_peers(config)]
    return findings + cluster


def _settings(config_file: str | None, data_dir: str | None) -> tuple[ServerConfig, list[Finding]]:
    """The node's settings; those by default if they can't be used, with a finding about it."""
    flags: dict[str, object] = {"data_dir": data_dir}
    if config_file is None:
        flags["name"] = os.environ.get("SYNCLINE_NAME") or NO_NAME
        flags["data_dir"] = data_dir or os.environ.get("SYNCLINE_DATA_DIR") or os.curdir
    try:
        config = load_config(file=config_file, environment=os.environ, flags=flags)
    except ConfigError as error:
        fallback = ServerConfig(name=NO_NAME, data_dir=data_dir or os.curdir)
        return fallback, [Finding("settings", "fail", str(error), "The other checks go by the settings by default")]
    if config_file is None:
        return config, [
            Finding("settings", "ok", "those by default, and of the environment: name a file with --config")
        ]
    return config, [Finding("settings", "ok", f"{config_file} can be used")]
