"""`debug`: gather what a bug report needs into one file, without secrets."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from importlib import metadata
from typing import Final

import click

from syncline.cli.announced import asks_members
from syncline.cli.asking import ask
from syncline.cli.common import Context, client_command
from syncline.cli.debug.bundle import Bundle
from syncline.cli.debug.redaction import Redactor, is_secret_name
from syncline.cli.debug.sources import Sources, know_secrets, listing, log_tail, settings_of_file, sources_of
from syncline.cli.doctor.command import examine
from syncline.cli.exits import EXIT_FAILED, Failure, one_line
from syncline.cli.output import print_json, print_line
from syncline.cli.survey import MemberRow, survey_of
from syncline.errors import ConfigError, OperationError
from syncline.node.settings.sources import ENVIRONMENT_PREFIX
from syncline.platform.texts import counted, encode_json
from syncline.version import __version__

__all__ = ["debug"]

PACKAGES: Final = ("syncline", "msgspec", "httptools", "uvloop", "click", "rich", "hpack", "opentelemetry-api")

SHOWN: Final = {
    "status.json": "/raft/status",
    "metrics.txt": "/metrics",
    "readyz.txt": "/readyz?verbose&timeout=2s",
    "version.json": "/version",
    "upgrade.json": "/raft/upgrade",
}
"""Files of one node, and the routes that they come from."""

_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9_.-]")

_Files = click.Path(dir_okay=False)


@click.command("debug", short_help="Make a bundle for a bug report, without secrets.")
@client_command
@asks_members
@click.option(
    "--config", "configs", type=_Files, multiple=True, help="Settings of a node, as with serve; again for more."
)
@click.option("--log-file", "logs", type=_Files, multiple=True, help="A log whose end is put in; may be given again.")
@click.option(
    "--data-dir", "data_dirs", metavar="DIR", multiple=True, help="Of a node, or that of 'up'; again for more."
)
@click.option("--output", metavar="FILE", help="The bundle.  [default: syncline-debug-DATE.tar.gz, here]")
async def debug(
    context: Context, *, configs: tuple[str, ...], logs: tuple[str, ...], data_dirs: tuple[str, ...], output: str | None
) -> None:
    """Gather what a bug report needs into one .tar.gz: from the cluster, and from this machine.

    Status, metrics and readiness of each node that answers; versions; the checks of 'doctor'; settings and SYNCLINE_…
    variables without secrets; the last MiB of each log; names and sizes of the files in a data directory. It never
    has values of keys, files of the log or of snapshots, secrets, passwords, tokens or private keys. Names of keys may
    stand in log lines. A part that can't be had is named in MANIFEST.txt.
    """
    path = output or time.strftime("syncline-debug-%Y%m%d-%H%M%S.tar.gz", time.gmtime())
    sources = sources_of(configs, logs, data_dirs)
    redactor = _redactor(context, sources)
    try:
        with Bundle(path) as bundle:
            _add_machine(bundle, redactor)
            await _add_cluster(bundle, context, redactor)
            await _add_checks(bundle, context, sources, redactor)
            _add_files(bundle, sources, redactor)
    except FileExistsError:
        raise Failure(f"{path} exists: name another file with --output", EXIT_FAILED, as_json=context.as_json) from None
    except OSError as error:
        text = f"the bundle {path} can't be written: {error.strerror or error}"
        raise Failure(text, EXIT_FAILED, as_json=context.as_json) from error
    if context.as_json:
        print_json({"file": bundle.path, "contents": bundle.names, "missing": bundle.problems})
        return
    print_line(f"{path}: {counted(len(bundle.names), 'file')}, {bundle.size_bytes >> 10} KiB")
    for problem in bundle.problems:
        print_line(f"not in it: {one_line(problem)}")
    print_line(
        "It has no secrets and no values. It has addresses, and maybe names of keys: read it before you send it."
    )


def _redactor(context: Context, sources: Sources) -> Redactor:
    shown = context.credential
    redactor = Redactor([text for text in (shown.token, shown.password) if text])
    for name, value in os.environ.items():
        if name.startswith(ENVIRONMENT_PREFIX) and is_secret_name(name):
            redactor.add(value)
    know_secrets(sources, redactor)
    return redactor


def _add_machine(bundle: Bundle, redactor: Redactor) -> None:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    about = {"syncline": __version__, "python": sys.version, "platform": platform.platform(), "packages": found}
    bundle.add_json("versions.json", about)
    own = {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENVIRONMENT_PREFIX)}
    bundle.add_json("environment.json", redactor.settings(own))


async def _add_cluster(bundle: Bundle, context: Context, redactor: Redactor) -> None:
    try:
        survey = await survey_of(context)
    except (OperationError, ConfigError) as error:
        bundle.missing("the cluster", error)
        return
    bundle.add("cluster.json", redactor.text(encode_json(survey).decode() + "\n"))
    for row in survey.members:
        await _add_node(bundle, context, row, redactor)


async def _add_node(bundle: Bundle, context: Context, row: MemberRow, redactor: Redactor) -> None:
    name = _file_name(row.name or row.id or "unknown")
    if not row.reachable or row.http is None:
        bundle.missing(f"node {name}", row.error or "it announces no HTTP address")
        return
    for file, path in SHOWN.items():
        try:
            answer = await ask(context, row.http, path)
        except OperationError as error:
            bundle.missing(f"nodes/{name}/{file}", error)
            continue
        text = answer.body.decode("utf-8", "backslashreplace")
        if answer.status in (401, 403, 404):
            bundle.missing(f"nodes/{name}/{file}", f"status {answer.status}: {text}")
            continue
        bundle.add(f"nodes/{name}/{file}", redactor.text(text))


async def _add_checks(bundle: Bundle, context: Context, sources: Sources, redactor: Redactor) -> None:
    """The checks of `doctor` by the first settings; they write nothing to the disk."""
    config = next(iter(sources.configs), None)
    data_dir = next(iter(sources.data_dirs), None) if config is None else None
    findings = await examine(context, config_file=config, data_dir=data_dir, disk_speed=False)
    bundle.add("doctor.txt", redactor.text("\n".join([*(finding.line for finding in findings), ""])))


def _add_files(bundle: Bundle, sources: Sources, redactor: Redactor) -> None:
    for path in sources.configs:
        try:
            bundle.add_json(f"settings/{_file_name(path)}.json", settings_of_file(path, redactor))
        except ConfigError as error:
            bundle.missing(path, error)
    for path in sources.logs:
        try:
            bundle.add(f"logs/{_file_name(path)}.log", log_tail(path, redactor))
        except OSError as error:
            bundle.missing(path, error.strerror or error)
    for path in sources.data_dirs:
        try:
            bundle.add(f"data/{_file_name(path)}.txt", redactor.text(listing(path)))
        except OSError as error:
            bundle.missing(path, error.strerror or error)


def _file_name(path: str) -> str:
    """A name for a member of the bundle: the last two parts of a path, of plain letters."""
    parts = os.path.abspath(path).split(os.sep)[-2:] if os.sep in path else [path]
    return _UNUSUAL.sub("_", "-".join(parts)).lstrip(".") or "_"
