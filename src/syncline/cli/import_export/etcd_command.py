"""`import --from-etcd` and `export --to-etcd`: their options, the clients of both clusters, and what they print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from syncline.cli.common import Context, make_client
from syncline.cli.credentials import find_password
from syncline.cli.import_export.etcd_copy import EtcdReport, copy_from_etcd, copy_to_etcd
from syncline.cli.import_export.etcd_gateway import EtcdGateway, EtcdLogin
from syncline.cli.import_export.printing import shown_progress, tell_report, told_how_far
from syncline.client import AsyncClient
from syncline.platform.texts import counted

__all__ = ["EtcdOptions", "etcd_options", "export_to_etcd", "import_from_etcd"]

Command = TypeVar("Command", bound=Callable[..., Any])

REQUEST_TIMEOUT_S: Final = 60.0
"""For one request to either cluster, retries included: longer than an election."""

PASSWORD_FILE_VARIABLE: Final = "SYNCLINE_ETCD_PASSWORD_FILE"  # noqa: S105 - the name of a variable


class EtcdOptions(msgspec.Struct, frozen=True):
    """How to reach the etcd cluster."""

    user: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None


def etcd_options(command: Command) -> Command:
    """Add the options about the etcd cluster's user and TLS."""
    for option in reversed(
        (
            click.option("--etcd-user", metavar="NAME", help=f"User of etcd (password: {PASSWORD_FILE_VARIABLE})."),
            click.option("--etcd-cacert", metavar="FILE", help="Certificate authority to trust for an https etcd."),
            click.option("--etcd-cert", metavar="FILE", help="Certificate to show to etcd."),
            click.option("--etcd-key-file", metavar="FILE", help="Its private key."),
        )
    ):
        command = option(command)
    return command


async def import_from_etcd(context: Context, urls: str, prefix: bytes, options: EtcdOptions) -> None:
    """Write the keys and leases of an etcd cluster to the user's cluster. Print a report."""
    report = EtcdReport()
    async with _gateway(context, urls, options) as source, _client(context) as target:
        with told_how_far(context, lambda: report.keys, "keys"):
            total = await source.count(prefix)
            with shown_progress("Importing", total, "keys", quiet=context.as_json) as progress:
                await copy_from_etcd(source, target, prefix, progress, report)
    _tell(context, report, "imported", f"from {source.urls}")


async def export_to_etcd(
    context: Context, urls: str, prefix: bytes, options: EtcdOptions, *, consistency: str | None
) -> None:
    """Write the keys and leases of the user's cluster to an etcd cluster. Print a report."""
    report = EtcdReport()
    async with _client(context) as source, _gateway(context, urls, options) as target:
        with told_how_far(context, lambda: report.keys, "keys"):
            total = await source.count(prefix, consistency=consistency)
            with shown_progress("Exporting", total, "keys", quiet=context.as_json) as progress:
                await copy_to_etcd(source, target, prefix, progress, report, consistency=consistency)
    _tell(context, report, "exported", f"to {target.urls}")


def _client(context: Context) -> AsyncClient:
    return make_client(context, timeout_s=REQUEST_TIMEOUT_S, patient=True)


def _gateway(context: Context, urls: str, options: EtcdOptions) -> EtcdGateway:
    tls = None
    if options.ca_file is not None or options.certificate_file is not None or options.key_file is not None:
        from syncline.client.tls import trusting_context

        tls = trusting_context(
            options.ca_file,
            options.certificate_file,
            options.key_file,
            settings=("--etcd-cacert", "--etcd-cert", "--etcd-key-file"),
        )
    login = None
    if options.user is not None:
        login = EtcdLogin(options.user, find_password(options.user, PASSWORD_FILE_VARIABLE))
    return EtcdGateway(urls, timeout_s=context.timeout_s or REQUEST_TIMEOUT_S, login=login, tls=tls)


def _tell(context: Context, report: EtcdReport, done: str, place: str) -> None:
    counts = ", ".join(
        counted(number, one)
        for number, one in ((report.keys, "key"), (report.size_bytes, "byte"), (report.leases, "lease"))
    )
    lines = [
        f"{done} {counts} {place}, as of revision {report.revision}",
        "revisions and versions are not kept: the keys have new ones; the time of each lease begins again",
    ]
    fields = {done: report.keys, "leases": report.leases, "source_revision": report.revision, "revisions_kept": False}
    tell_report(context, report, lines, fields, unit="keys", done=done)
