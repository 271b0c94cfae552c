"""Make a certificate authority, and certificates for nodes and clients, with the `openssl` program.

The standard library makes no certificates. `openssl` is there wherever `ca-certificates` is (Debian's package depends
on it, the slim images of Python have it), and macOS has LibreSSL's. The package `cryptography` would add 15 MB of
compiled code to each installation, for a command that runs once a year.

Keys go through pipes and files of mode 0600, never through arguments, which every user of the machine can read.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

from syncline.errors import ConfigError
from syncline.node.tls_directory import AUTHORITY, authority_path, certificate_path, key_path
from syncline.server.addresses import check_name

__all__ = ["AUTHORITY_DAYS", "CERTIFICATE_DAYS", "make_authority", "make_client", "make_node"]

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 397
"""Longer is refused by some clients; nodes warn 30 days before the end."""

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
"""In each node's certificate, so that tools on its own machine reach it."""

TIMEOUT_S: Final = 30.0

_LABEL: Final = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z)(\*\.)?{_LABEL}(\.{_LABEL})*\Z")
_MOST_NAME_CHARS: Final = 64
"""The limit on a commonName (RFC 5280, appendix A)."""


def make_authority(directory: str, *, days: int, name: str = "Syncline authority") -> str:
    """Make DIR/ca.pem and DIR/ca.key; return the certificate's path.

    Raises `ConfigError`, also if one of the files exists.
    """
    _make_directory(directory)
    certificate, key = authority_path(directory), key_path(directory, AUTHORITY)
    _refuse_existing(certificate, key)
    pem = _new_key()
    with tempfile.TemporaryDirectory(prefix="syncline-certs-") as work:
        _write(os.path.join(work, "key"), pem, 0o600)
        config = _config(
            f"{name} {secrets.token_hex(4)}",  # two authorities must not have one name: a chain is found by it
            "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
            "subjectKeyIdentifier=hash\n",
        )
        _write(os.path.join(work, "config"), config, 0o600)
        made = _openssl(
            *("req", "-x509", "-new", "-sha256", "-key", os.path.join(work, "key"), "-days", str(days)),
            *("-config", os.path.join(work, "config")),
        )
    _write(key, pem, 0o600)
    _write(certificate, made, 0o644)
    return certificate


def make_node(directory: str, name: str, hosts: Sequence[str], *, days: int, replace: bool) -> str:
    """Make DIR/NAME.pem and DIR/NAME.key for a node; return the certificate's path.

    It names the node by `name` for its peers, and each of `hosts` for clients. Raises `ConfigError`.
    """
    entries = [f"DNS:{name}"]
    for host in dict.fromkeys((*hosts, *LOCAL_HOSTS)):
        entry, first = _entry(host), host.partition(".")[0]
        others = certificate_path(directory, first)
        if entry.startswith("DNS:") and first.lower() != name.lower() and os.path.lexists(others):
            raise ConfigError(
                f"--host {host}: to its peers the certificate of {name} would name the node {first} as well, which"
                f" {others} is for; rename the host or the node"
            )
        if entry not in entries:
            entries.append(entry)
    return _issue(directory, name, "serverAuth,clientAuth", ",".join(entries), days=days, replace=replace)


def make_client(directory: str, name: str, *, days: int, replace: bool) -> str:
    """Make DIR/NAME.pem and DIR/NAME.key for a client; return the certificate's path.

    It has no DNS name, so that no peer takes the client for a node. Raises `ConfigError`.
    """
    return _issue(directory, name, "clientAuth", f"URI:syncline:client:{name}", days=days, replace=replace)


def _issue(directory: str, name: str, usages: str, names: str, *, days: int, replace: bool) -> str:
    _check_name(name)
    authority, authority_key = authority_path(directory), key_path(directory, AUTHORITY)
    for path in (authority, authority_key):
        if not os.path.isfile(path):
            raise ConfigError(f"there is no authority in {directory}: {path} is missing; `syncline certs ca` makes one")
    certificate, key = certificate_path(directory, name), key_path(directory, name)
    if not replace:
        _refuse_existing(certificate, key)
    pem = _new_key()
    with tempfile.TemporaryDirectory(prefix="syncline-certs-") as work:
        paths = {file: os.path.join(work, file) for file in ("key", "config", "request", "extensions")}
        _write(paths["key"], pem, 0o600)
        _write(paths["config"], _config(name, ""), 0o600)
        _write(paths["request"], _openssl("req", "-new", "-key", paths["key"], "-config", paths["config"]), 0o600)
        extensions = (
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage={usages}\nsubjectAltName={names}\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        _write(paths["extensions"], extensions, 0o600)
        _check_pair(authority, authority_key)
        made = _openssl(
            *("x509", "-req", "-sha256", "-in", paths["request"], "-CA", authority, "-CAkey", authority_key),
            *("-set_serial", f"0x{secrets.token_hex(15)}", "-days", str(days), "-extfile", paths["extensions"]),
        )
    _write(key, pem, 0o600, replace=replace)
    _write(certificate, made, 0o644, replace=replace)
    return certificate


def _check_pair(authority: str, key: str) -> None:
    """Raise `ConfigError` if the key belongs to another authority, as after a change of the authority alone."""
    shown = _openssl("x509", "-in", authority, "-noout", "-pubkey")
    if shown.split() != _openssl("pkey", "-in", key, "-pubout").split():
        raise ConfigError(
            f"{key} is not the key of the first certificate in {authority}: give --dir the directory in which this"
            " authority was made"
        )


def _check_name(name: str) -> None:
    check_name(name)
    if name in LOCAL_HOSTS:
        raise ConfigError(f"the certificate of each node names {name!r}: choose another name for the node")
    if name == AUTHORITY:
        raise ConfigError(f"the name {AUTHORITY!r} is that of the authority's files: choose another one")
    if _HOST.match(name) is None or "*" in name or len(name) > _MOST_NAME_CHARS:
        raise ConfigError(
            f"a certificate can't name {name!r}: use up to {_MOST_NAME_CHARS} letters, digits, hyphens and dots"
        )


def _entry(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host.strip('[]'))}"
    except ValueError:
        if _HOST.match(host) is None:
            raise ConfigError(f"--host {host[:300]!r} is not a host name or an address, without a port") from None
        return f"DNS:{host}"


def _config(common_name: str, extensions: str) -> str:
    return (
        "[req]\nprompt=no\nutf8=yes\nstring_mask=utf8only\ndistinguished_name=subject\n"
        + ("x509_extensions=extensions\n" if extensions else "")
        + f"[subject]\nCN={common_name}\n[extensions]\n{extensions}"
    )


def _new_key() -> str:
    return _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def _openssl(*arguments: str) -> str:
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError(
            "the program `openssl` is not on the PATH, and it makes the certificates: install the package openssl, or"
            " bring certificates of your own (docs/tls.md says what they must hold)"
        )
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments and checked names, and no shell
            [program, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{program} {arguments[0]} failed: {error}") from error
    if done.returncode != 0:
        raise ConfigError(f"{program} {arguments[0]} failed: {' '.join(done.stderr.split())[:500]}")
    return done.stdout


def _make_directory(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the directory {directory} can't be made: {error.strerror}") from error


def _refuse_existing(*paths: str) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise ConfigError(
                f"{path} exists, and is not overwritten: choose another --dir, or give --replace to renew the"
                " certificate of a node or client"
            )


def _write(path: str, text: str, mode: int, *, replace: bool = False) -> None:
    """Make a file; `replace`: in place of one that exists, as a whole. Raises `ConfigError`."""
    target = f"{path}.new" if replace else path
    try:
        if replace and os.path.lexists(target):
            os.unlink(target)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(target, path)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from error
