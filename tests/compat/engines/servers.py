"""Real servers for the tests: etcd with one or three nodes, and PostgreSQL. Each can be killed and restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.compat.waiting import until
from tests.helpers.ports import free_block

if TYPE_CHECKING:
    import psycopg

__all__ = ["EtcdServers", "PgBouncer", "PostgresServer", "has_etcd", "has_pgbouncer", "postgres_programs"]

SERVER_USER: Final = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user."""

PROGRAMS: Final = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))


def has_etcd() -> bool:
    return shutil.which("etcd") is not None


def postgres_programs() -> Path | None:
    """The directory of PostgreSQL's programs, which Debian keeps out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    return Path(program).resolve().parent if program else None


def has_pgbouncer() -> bool:
    return shutil.which("pgbouncer", path=PROGRAMS) is not None


class EtcdServers:
    """A cluster of etcd on loopback."""

    def __init__(self, directory: Path, nodes: int = 1, quota: int = 0) -> None:
        self.directory = directory
        self._quota = quota
        first = free_block(2 * nodes)
        self.clients = [first + 2 * number for number in range(nodes)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * nodes

    @property
    def hosts(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self.clients)

    def start(self) -> None:
        for number in range(len(self.clients)):
            self.start_node(number)
        self.ready()

    def start_node(self, number: int) -> None:
        client, peer = self.clients[number], self.clients[number] + 1
        cluster = ",".join(f"n{place}=http://127.0.0.1:{port + 1}" for place, port in enumerate(self.clients))
        with open(self.directory / f"etcd-{number}.log", "ab") as log:
            self._processes[number] = subprocess.Popen(
                [
                    *("etcd", "--name", f"n{number}", "--data-dir", str(self.directory / f"etcd-{number}")),
                    *("--quota-backend-bytes", str(self._quota)),
                    *("--log-level", "error", "--listen-client-urls", f"http://127.0.0.1:{client}"),
                    *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
                    *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", cluster),
                ],
                stdout=log,
                stderr=log,
            )

    def ready(self) -> None:
        from tests.compat.etcd.real_etcd import healthy

        for port in self.clients:
            until("etcd serves", lambda port=port: healthy(f"http://127.0.0.1:{port}"))  # type: ignore[misc]

    def leader(self) -> int:
        """The number of the node that leads."""
        import json
        import urllib.request

        for number, port in enumerate(self.clients):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/maintenance/status", data=b"{}")
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2) as answer:
                status = json.load(answer)
                if status["leader"] == status["header"]["member_id"]:
                    return number
        raise AssertionError("no etcd leads")

    def kill(self, number: int) -> None:
        process = self._processes[number]
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            self._processes[number] = None

    def signal(self, number: int, what: signal.Signals) -> None:
        process = self._processes[number]
        assert process is not None
        process.send_signal(what)

    def forget_machine(self, log: str) -> None:
        """Delete the key of a log that earlier versions do not make."""
        command = ["etcdctl", f"--endpoints={self.hosts}", "del", f"{log}/machine"]
        subprocess.run(command, env=os.environ | {"ETCDCTL_API": "3"}, check=True, capture_output=True)

    def stop(self) -> None:
        for number in range(len(self.clients)):
            self.kill(number)

    def save(self) -> None:
        """Keep a copy of the data directories: a backup. The servers are stopped."""
        for number in range(len(self.clients)):
            data = self.directory / f"etcd-{number}"
            shutil.copytree(data, data.with_suffix(".saved"), dirs_exist_ok=True)

    def restore(self) -> None:
        """Put the backup in place of the data. The servers are stopped."""
        for number in range(len(self.clients)):
            data = self.directory / f"etcd-{number}"
            shutil.rmtree(data)
            shutil.copytree(data.with_suffix(".saved"), data)


class PostgresServer:
    """A server of PostgreSQL on loopback."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self._programs = programs
        self.directory = directory / "postgres"
        self.port = free_block(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._user = SERVER_USER if os.geteuid() == 0 else None

    def make(self) -> None:
        """Make the data directory."""
        self.directory.mkdir()
        if self._user:
            shutil.chown(self.directory, self._user, self._user)
            self.directory.parent.chmod(0o755)
        self._run(
            "initdb", "-D", str(self.directory), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"
        )
        with open(self.directory / "pg_hba.conf", "w") as hba:
            hba.write("host all closed 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments], user=self._user, cwd="/", check=True, capture_output=True
        )

    def start(self, *settings: str) -> None:
        """Start it, again and again: it ends at once while a process of the one that was killed is left."""
        self._launch(settings)

        def serves() -> bool:
            if self._process is not None and self._process.poll() is not None:
                self._launch(settings)
            return self._serves()

        until("PostgreSQL serves", serves)

    def _launch(self, settings: tuple[str, ...]) -> None:
        with open(self.directory.parent / "postgres.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._programs / "postgres"), "-D", str(self.directory), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    *(part for setting in settings for part in ("-c", setting)),
                ],
                user=self._user,
                cwd="/",
                stdout=log,
                stderr=log,
            )

    def _serves(self) -> bool:
        program = str(self._programs / "pg_isready")
        return subprocess.run([program, "-h", "127.0.0.1", "-p", str(self.port), "-q"], check=False).returncode == 0

    def url(self, log: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/postgres?log={log}"

    def session(self) -> psycopg.Connection[tuple[object, ...]]:
        """A session of an operator."""
        import psycopg

        return psycopg.connect(self.url("x").partition("?")[0], autocommit=True)

    def forget_machine(self, log: str) -> None:
        """Empty the column that earlier versions do not fill."""
        with self.session() as connection:
            connection.execute("UPDATE syncline_head SET machine = NULL WHERE log = %s", [log])

    def stop(self) -> None:
        """End the server and all its processes, as a loss of power does."""
        process = self._process
        if process is not None:
            children = self._processes()[1:]
            process.send_signal(signal.SIGKILL)
            process.wait()
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._process = None

    def _processes(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, check=False)
        return [pid, *map(int, found.stdout.split())]

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to the server and all its processes."""
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def save(self) -> None:
        """Keep a copy of the data directory: a backup. The server is stopped."""
        self._copy(self.directory, self.directory.with_suffix(".saved"))

    def restore(self) -> None:
        """Put the backup in place of the data. The server is stopped."""
        self._copy(self.directory.with_suffix(".saved"), self.directory)

    def _copy(self, source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)


class PgBouncer:
    """A pool of connections to a server of PostgreSQL, on loopback."""

    def __init__(self, server: PostgresServer, mode: str, size: int) -> None:
        self.port = free_block(1)
        self._user = server._user
        self._directory = server.directory.parent / f"pool-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._directory.mkdir()
        lines = [
            *("[databases]", f"postgres = host=127.0.0.1 port={server.port} dbname=postgres", "[pgbouncer]"),
            *("listen_addr = 127.0.0.1", f"listen_port = {self.port}", "unix_socket_dir =", "auth_type = trust"),
            *(f"auth_file = {self._directory}/users", f"pool_mode = {mode}", f"default_pool_size = {size}"),
        ]
        (self._directory / "ini").write_text("\n".join(lines) + "\n")
        (self._directory / "users").write_text('"postgres" ""\n')
        for path in (self._directory, *self._directory.iterdir()):  # Patroni, once imported, has set the umask to 077
            path.chmod(0o755)

    @property
    def address(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        program = shutil.which("pgbouncer", path=PROGRAMS)
        assert program is not None
        command = [program, str(self._directory / "ini")]
        log = self._directory / "log"
        with log.open("wb") as output:
            self._process = process = subprocess.Popen(
                command, user=self._user, cwd="/", stdout=output, stderr=subprocess.STDOUT
            )

        def serves() -> bool:
            assert process.poll() is None, f"PgBouncer has ended: {log.read_text()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        until("PgBouncer serves", serves)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def pgbouncer(server: PostgresServer, mode: str, size: int) -> Iterator[PgBouncer]:
    pool = PgBouncer(server, mode, size)
    pool.start()
    try:
        yield pool
    finally:
        pool.stop()


@contextlib.contextmanager
def etcd_servers(directory: Path, nodes: int = 1, quota: int = 0) -> Iterator[EtcdServers]:
    servers = EtcdServers(directory, nodes, quota)
    servers.start()
    try:
        yield servers
    finally:
        servers.stop()


@contextlib.contextmanager
def postgres_server(programs: Path) -> Iterator[PostgresServer]:
    """In a directory of its own: the user of the server may not enter those of pytest."""
    with tempfile.TemporaryDirectory(prefix="syncline-postgres-") as directory:
        server = PostgresServer(Path(directory), programs)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
