"""A real PostgreSQL for tests and benchmarks: a server of its own in a temporary folder, on 127.0.0.1, with a password.

`postgres` refuses to run as root, so root starts it as the user `postgres` that the Debian package makes. The server
ends with the process that started it, however that ends. Needs the programs (apt-get install postgresql) and psycopg.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.live import free_port

USER, PASSWORD = "routeprint", "a-password-for-tests"
_SECONDS = 60.0


def programs() -> Path | None:
    """Return the folder of initdb and postgres: the one on the path, else the newest that Debian installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    return next((f for f in [*folders, *debian] if (f / "postgres").exists() and (f / "initdb").exists()), None)


def why_not() -> str | None:
    """Say what is missing here for a server; None if nothing is."""
    if programs() is None:
        return "no PostgreSQL on this machine: apt-get install postgresql"
    if shutil.which("setpriv") is None:
        return "no setpriv on this machine (package util-linux)"
    try:
        _owner()
    except KeyError:
        return "PostgreSQL refuses to run as root, and there is no user `postgres` to run it as"
    return None


def _owner() -> tuple[int, int]:
    """Return user and group of the server: ours, or those of `postgres` if we are root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    found = pwd.getpwnam("postgres")
    return found.pw_uid, found.pw_gid


class Postgres:
    """One server. `database` makes a database and returns its URL; `crash` is a power cut, `start` brings it back."""

    def __init__(self, folder: Path, **settings: str) -> None:
        """settings: of postgresql.conf; durability stays as it comes (fsync on)."""
        self.folder, self.port, self.settings = folder, free_port(), settings
        bin_ = programs()
        assert bin_ is not None
        self._bin = bin_
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, *_owner())
        secret = folder / "password"
        secret.write_text(PASSWORD)
        os.chown(secret, *_owner())
        login = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}"]
        self._run("initdb", "-D", str(self.data), "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", *login)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    def _as_owner(self, program: str, *args: str) -> list[str]:
        uid, gid = _owner()
        change = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"] if os.geteuid() == 0 else []
        return ["setpriv", *change, "--pdeathsig", "KILL", str(self._bin / program), *args]

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            self._as_owner(program, *args), cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""} | self.settings
        args = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = self._as_owner("postgres", "-D", str(self.data), "-p", str(self.port), *args)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"postgres ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"postgres does not answer: {self.log.read_text()[-2000:]}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._conninfo("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def crash(self) -> None:
        """End it at once: like a power cut, which the next start repairs from the journal."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Shut down in order, cutting off whoever is connected."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            process.wait(_SECONDS)

    def _conninfo(self, name: str) -> str:
        return f"host=127.0.0.1 port={self.port} user={USER} password={PASSWORD} dbname={name}"

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of a database of this server."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def cpu_seconds(self) -> float:
        """Return the processor time of the server and of all its sessions that are open."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return sum(time.user + time.system for time in times)

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement outside a transaction and return its rows, if it has any."""
        import psycopg

        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self, template: str = "template1") -> str:
        """Make a database, empty or as a copy of another one nobody is connected to, and return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rsplit('/', 1)[1]} WITH (FORCE)")


@contextmanager
def running_postgres(**settings: str) -> Iterator[Postgres]:
    """Run a server for the length of the block; its folder goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="routeprint-postgres-"))
    server = None
    try:
        server = Postgres(folder, **settings)
        server.start()
        yield server
    finally:
        if server is not None:
            server.crash()
        shutil.rmtree(folder, ignore_errors=True)


def postgres_or_skip(**settings: str) -> Iterator[Postgres]:
    """Yield a running server (the body of a fixture); skip with the reason where there can be none."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with running_postgres(**settings) as server:
        yield server
