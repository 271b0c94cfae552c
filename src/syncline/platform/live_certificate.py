"""A certificate in use: replaced when its files change, and watched until its end.

The files are looked at every few seconds, without a signal: SIGHUP stops a node, since a terminal that is closed sends
it. Changed files are read when they stayed the same from one look to the next: a key and its certificate are two files.
Files that can't be used change nothing; the log says why, once for each change.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.errors import ConfigError
from syncline.platform.certificates import CertificateFacts
from syncline.platform.tls import TlsContext, new_context

__all__ = ["WARN_DAYS", "LiveCertificate", "LoadedCertificate", "why_not_now"]

LOOK_EVERY_S: Final = 2.0
"""Between two looks at the files: six `stat` calls. A change is in use within two looks."""

WARN_DAYS: Final = 30
"""A certificate that ends within so many days is warned of."""

OWN_FILES: Final = 2
"""A certificate and its key. A file of authorities may follow."""

WARN_EVERY_S: Final = 86_400.0
DAY_S: Final = 86_400.0

_log = logging.getLogger("syncline.certificates")


class LoadedCertificate(msgspec.Struct, frozen=True):
    """The contexts that show a certificate, and what it holds."""

    facts: CertificateFacts
    server: ssl.SSLContext
    client: ssl.SSLContext | None = None
    authority_not_after_s: float | None = None
    """When the last of the authorities ends, in seconds since the epoch."""


def why_not_now(facts: CertificateFacts, now_s: float) -> str:
    """Why a certificate is not valid at this time; empty if it is."""
    if now_s > facts.not_after_s:
        return f"has expired on {_date(facts.not_after_s)}"
    if now_s < facts.not_before_s:
        return f"is not valid before {_date(facts.not_before_s)}: compare the clocks of the machines"
    return ""


class LiveCertificate:
    """The certificate for one use, such as "peers". `load` reads the files, and raises `ConfigError`.

    `paths` are those of the certificate, of its key, and of the authorities if there are any.

    `server` and `client` are the contexts for both ends of connections. `wall_time_s` is compared with the
    certificate's dates.

    Raises:
        ConfigError: the files can't be used.
    """

    def __init__(
        self,
        use: str,
        paths: tuple[str, ...],
        load: Callable[[], LoadedCertificate],
        *,
        wall_time_s: Callable[[], float] = time.time,
    ) -> None:
        self._use = use
        self._paths = paths
        self._load = load
        self._wall_time_s = wall_time_s
        self._seen = self._signature()
        self._used = self._seen
        self._taken = self._seen
        """Of the files that are in use. Those in `_used` were looked at last, and may be bad."""
        self._loaded = loaded = load()
        self.server: TlsContext = new_context(loaded.server, server_side=True)
        self.client: TlsContext | None = None
        if loaded.client is not None:
            self.client = new_context(loaded.client, server_side=False)
        self._timer: asyncio.TimerHandle | None = None
        self._warned_s: float | None = None
        self.reloads: int = 0
        """How often the files were taken again."""

    @property
    def facts(self) -> CertificateFacts:
        """What the certificate in use holds."""
        return self._loaded.facts

    @property
    def path(self) -> str:
        """The file of the certificate."""
        return self._paths[0]

    @property
    def days_left(self) -> float:
        """Days until the certificate in use ends, or the last of its authorities, if that is sooner."""
        return (self._ends_s() - self._wall_time_s()) / DAY_S

    def _ends_s(self) -> float:
        return min(self.facts.not_after_s, self._loaded.authority_not_after_s or self.facts.not_after_s)

    def watch(self) -> None:
        """Look at the files from now on, on the running event loop, and warn now if the end is near."""
        if self._timer is None:
            self._look_at_dates()
            self._schedule()

    def close(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._tick)

    def _tick(self) -> None:
        self.look()
        self._schedule()

    def look(self) -> None:
        """Take the files if they have changed and are the same as at the last look; warn if the end is near."""
        signature = self._signature()
        settled, self._seen = signature == self._seen, signature
        if settled and signature != self._used:
            self._used = signature
            self._take()
        self._look_at_dates()

    def _take(self) -> None:
        try:
            loaded = self._load()
            fault = why_not_now(loaded.facts, self._wall_time_s())
            if fault:
                raise ConfigError(f"certificate {self.path!r} {fault}")
        except ConfigError as error:
            _log.error("the new TLS files for %s are not used, the old ones stay in use: %s", self._use, error)
            return
        self._loaded = loaded
        self.server.use(loaded.server)
        if self.client is not None and loaded.client is not None:
            self.client.use(loaded.client)
        self._warned_s = None
        self.reloads += 1
        before, self._taken = self._taken, self._used
        if before[:OWN_FILES] == self._taken[:OWN_FILES]:
            _log.info(
                "the authorities for %s were replaced by %s; new connections use them", self._use, self._paths[-1]
            )
            return
        _log.info(
            "the certificate for %s was replaced by %s, which ends on %s; new connections use it",
            self._use,
            self.path,
            _date(loaded.facts.not_after_s),
        )

    def _look_at_dates(self) -> None:
        now_s = self._wall_time_s()
        fault = why_not_now(self.facts, now_s)
        days = self.days_left
        if not fault and days > WARN_DAYS:
            return
        if self._warned_s is not None and 0 <= now_s - self._warned_s < WARN_EVERY_S:
            return
        self._warned_s = now_s
        advice = "replace the file, it is taken without a restart"
        if fault:
            _log.error("the certificate for %s, %s, %s: others refuse it; %s", self._use, self.path, fault, advice)
        elif self._ends_s() < self.facts.not_after_s:
            _log.warning(
                "the authority for %s, %s, ends in %.0f days, on %s: issue a new one, see docs/tls.md",
                *(self._use, self._paths[-1], days, _date(self._ends_s())),
            )
        else:
            _log.warning(
                "the certificate for %s, %s, ends in %.0f days, on %s: %s",
                *(self._use, self.path, days, _date(self.facts.not_after_s), advice),
            )

    def _signature(self) -> tuple[tuple[int, int, int, int] | None, ...]:
        return tuple(_signature(path) for path in self._paths)


def _signature(path: str) -> tuple[int, int, int, int] | None:
    """What changes when a file is replaced or written again; None if it can't be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _date(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
