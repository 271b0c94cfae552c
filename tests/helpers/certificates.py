"""Certificates for tests, made once per process: good ones of one authority, and each kind of bad one."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from syncline.cli.certificates import make_authority, make_client, make_node

__all__ = ["certificates", "issue"]


@functools.cache
def certificates() -> Path:
    """A directory as `syncline certs` makes it: the nodes a and b, the client app; and foreign/ of another authority.

    Beside them: `expired`, `early` (not valid yet), `serveronly` and `clientonly`, which all name the node a.
    """
    directory = Path(tempfile.mkdtemp(prefix="syncline-test-certs-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    for place in (directory, directory / "foreign"):
        make_authority(str(place), days=100)
        make_node(str(place), "a", ["db.example"], days=90, replace=False)
    make_node(str(directory), "b", [], days=90, replace=False)
    make_client(str(directory), "app", days=90, replace=False)
    make_client(str(directory / "foreign"), "app", days=90, replace=False)
    both = "serverAuth,clientAuth"
    issue(directory, "expired", both, starts="20200101000000Z", ends="20210101000000Z")
    issue(directory, "early", both, starts="21200101000000Z", ends="21210101000000Z")
    issue(directory, "serveronly", "serverAuth")
    issue(directory, "clientonly", "clientAuth")
    issue(directory, "others", both, names="DNS:other,DNS:localhost,IP:127.0.0.1")
    issue(directory, "name", both, names="DNS:a")
    return directory


def issue(
    directory: Path,
    file: str,
    usages: str,
    *,
    names: str = "DNS:a,DNS:localhost,IP:127.0.0.1",
    starts: str = "20200101000000Z",
    ends: str = "21190101000000Z",
) -> None:
    """Issue a certificate with any dates, by `openssl ca`: the command under test makes good ones alone."""
    work = Path(tempfile.mkdtemp(prefix="syncline-test-ca-"))
    key, request, config = directory / f"{file}.key", work / "request", work / "config"
    (work / "index").touch()
    (work / "serial").write_text(f"{os.urandom(8).hex()}\n")
    config.write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={work}/index\nserial={work}/serial\nnew_certs_dir={work}\n"
        f"default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n"
        f"[req]\nprompt=no\ndistinguished_name=subject\n[subject]\nCN={file}\n"
        f"[own_extensions]\nextendedKeyUsage={usages}\nsubjectAltName={names}\n"
    )
    authority = ["-cert", str(directory / "ca.pem"), "-keyfile", str(directory / "ca.key")]
    for arguments in (
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key)],
        ["req", "-new", "-key", str(key), "-config", str(config), "-out", str(request)],
        ["ca", "-batch", "-notext", "-config", str(config), *authority, "-in", str(request), "-extensions",
         "own_extensions", "-startdate", starts, "-enddate", ends, "-out", str(directory / f"{file}.pem")],
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
    shutil.rmtree(work)
