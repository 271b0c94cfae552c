"""Local parts of a bundle: settings, log tails, and listings of data directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from syncline.cli.debug.redaction import Redactor
from syncline.cli.down import made_plan
from syncline.errors import ConfigError, StorageError
from syncline.node.secret_file import FILE_LIMIT_BYTES
from syncline.node.settings.toml_file import read_settings_file

__all__ = ["Sources", "know_secrets", "listing", "log_tail", "settings_of_file", "sources_of"]

TAIL_BYTES: Final = 1 << 20
"""Of each log file: some thousand lines."""

MAX_LISTED: Final = 10_000
"""Files of one data directory."""

SECRET_FILES: Final = ("peer_secret_file", "join_token_file")
"""Settings that name a file with a secret."""


class Sources(msgspec.Struct):
    """Where the parts come from."""

    configs: list[str] = []
    logs: list[str] = []
    data_dirs: list[str] = []
    secrets: list[str] = []
    """Files with secrets, beside those that the settings name."""


def sources_of(configs: Sequence[str], logs: Sequence[str], data_dirs: Sequence[str]) -> Sources:
    """The user's files; a directory of `up` stands for all its nodes. Raises `ConfigError`."""
    found = Sources(list(configs), list(logs), [])
    for directory in data_dirs:
        try:
            plan = made_plan(directory)
        except (ConfigError, StorageError):  # of a node; or it is listed as it is, with the reason if it can't be
            found.data_dirs.append(directory)
            continue
        found.secrets.append(plan.secret_path)
        found.logs.append(plan.own_log_path)
        for node in plan.nodes:
            found.data_dirs.append(node.data_dir)
            found.configs.append(node.config_path)
            found.logs.append(node.log_path)
    return found


def know_secrets(sources: Sources, redactor: Redactor) -> None:
    """Let the redactor know each secret that these sources lead to."""
    paths = list(sources.secrets)
    for config in sources.configs:
        try:
            settings, _ = read_settings_file(config)
        except ConfigError:
            continue  # it is not in the bundle, and the manifest says why
        paths += [str(settings[name]) for name in SECRET_FILES if settings.get(name)]
        redactor.add(str(settings.get("peer_secret", "")))
    for path in paths:
        redactor.add(_read_secret(path))


def _read_secret(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(FILE_LIMIT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""  # this user can't read it, so nothing of it is in the bundle


def settings_of_file(path: str, redactor: Redactor) -> dict[str, object]:
    """The settings of a file without secrets. Raises `ConfigError`."""
    settings, _ = read_settings_file(path)
    return redactor.settings(settings)


def log_tail(path: str, redactor: Redactor) -> str:
    """The end of a log file, from a whole line on, without secrets. Raises `OSError`."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - TAIL_BYTES))
        data = file.read(TAIL_BYTES)
    if size > TAIL_BYTES:
        data = data.partition(b"\n")[2]
    return redactor.text(data.decode("utf-8", "backslashreplace"))


def listing(directory: str) -> str:
    """Names, sizes, rights and ages of the files in a data directory; nothing of their contents. Raises `OSError`."""
    lines = [f"{'mode':10} {'uid':>6} {'bytes':>14} {'modified':>14}  name"]
    for number, (name, about) in enumerate(_files(directory)):
        if number == MAX_LISTED:
            lines.append(f"… and more: {MAX_LISTED} are listed")
            break
        mode = stat.filemode(about.st_mode)
        lines.append(f"{mode:10} {about.st_uid:6} {about.st_size:14} {about.st_mtime:14.0f}  {name}")
    return "\n".join([*lines, ""])


def _files(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    yield ".", os.stat(directory)

    def failed(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(directory, onerror=failed):
        folders.sort()
        for name in sorted([*files, *folders]):
            path = os.path.join(folder, name)
            raw = os.path.relpath(path, directory).encode("utf-8", "surrogateescape")
            shown = raw.decode("utf-8", "backslashreplace")
            try:
                yield shown.replace("\n", "\\n"), os.lstat(path)
            except FileNotFoundError:
                continue  # a running node has removed it meanwhile
