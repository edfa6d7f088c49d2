"""Read `deploy/compose.yaml` as docker compose does, and run its services as plain processes."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import yaml
from ports import free_port, is_listening

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^}]*))?\}")
"""`${NAME}`, `${NAME:-default}`, `${NAME:?what is missing}`."""
HOST = "tracking.example"
GIVEN = {
    "TRACKING_HOST": HOST,
    "ADMIN_PASSWORD": "canary-of-the-admin",
    "DATABASE_PASSWORD": "canary-of-the-database",
    "STORE_USER": "canary-of-the-store",
    "STORE_PASSWORD": "canary-of-the-store's-key",
    "SESSION_KEY": "canary-of-the-session",
}


@cache
def written() -> dict[str, Any]:
    """The file, without interpolation."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def interpolated(given: Mapping[str, str]) -> dict[str, Any]:
    """The file with its variables replaced.

    Raises:
        KeyError: a required variable is not given.
    """

    def value(match: re.Match[str]) -> str:
        name, how, rest = match.group("name", "how", "rest")
        return given.get(name) or (rest if how == "-" else given[name])

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(each) for key, each in node.items()}
        if isinstance(node, list):
            return [fill(each) for each in node]
        return VARIABLE.sub(value, node) if isinstance(node, str) else node

    filled: dict[str, Any] = fill(written())
    return filled


class Services:
    """The file's database, object store and MLflow, each on a free port of this machine."""

    def __init__(self) -> None:
        self.file = interpolated(GIVEN)
        self.folder = Path(tempfile.mkdtemp(prefix="logins"))  # a short path: sockets are in it
        self.folder.chmod(0o711)
        self.ports = {name: free_port() for name in ("database", "store", "mlflow")}
        self.uri = f"http://127.0.0.1:{self.ports['mlflow']}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        environment = self.file["services"]["mlflow"]["environment"]
        self.login = {
            "MLFLOW_TRACKING_USERNAME": environment["MLFLOW_AUTH_ADMIN_USERNAME"],
            "MLFLOW_TRACKING_PASSWORD": environment["MLFLOW_AUTH_ADMIN_PASSWORD"],
        }

    def start(self) -> None:
        """Start all services in the order of their dependencies."""
        self._make_database()
        self.start_database()
        self._start("store", [sys.executable, "-m", "moto.server", "-p", str(self.ports["store"])])
        self._wait("store", lambda: is_listening(self.ports["store"]))
        bucket = [sys.executable, *self.file["services"]["bucket"]["command"][1:]]
        subprocess.run(bucket, env=self.environment("bucket"), check=True, timeout=300)
        command = [self._here(word) for word in self.file["services"]["mlflow"]["command"]]
        self._start("mlflow", [sys.executable, "-m", *command])
        self._wait("mlflow", lambda: self.status("GET", "/health") == 200)

    def start_database(self) -> None:
        name, *options = self.file["services"]["database"]["command"]
        place = ["-D", self.folder / "data", "-k", self.folder, "-h", "127.0.0.1"]
        command = [_postgres(name), *options, *place, "-p", str(self.ports["database"])]
        self._start("database", command, **_owner())
        self._wait("database", self._database_answers)

    def kill_database(self) -> None:
        """Kill the database, including its connection processes, which have their own groups."""
        process = self.running.pop("database")
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()

    def end(self) -> None:
        for process in reversed(list(self.running.values())):
            with suppress(psutil.NoSuchProcess):
                family = psutil.Process(process.pid).children(recursive=True)
                for each in (process, *family):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, service: str) -> dict[str, str]:
        """A service's environment, with host names replaced by local ones and configs by files."""
        found = {}
        targets = {each["target"]: each["source"] for each in self._of(service).get("configs", ())}
        for name, value in self._of(service)["environment"].items():
            if value in targets:
                path = self.folder / targets[value]
                path.write_text(self._here(self.file["configs"][targets[value]]["content"]))
                value = str(path)
            found[name] = self._here(value)
        return {**os.environ, **found}

    def status(
        self, method: str, path: str, host: str = HOST, body: bytes | None = None, **headers: str
    ) -> int:
        """The status of a request, without a login unless it is in the headers; 0: no response."""
        code, _ = self.answer(method, path, host, body, **headers)
        return code

    def answer(
        self, method: str, path: str, host: str = HOST, body: bytes | None = None, **headers: str
    ) -> tuple[int, str]:
        sent = {"Host": host, "Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.uri + path, body, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError:
            return 0, ""

    @property
    def authorization(self) -> str:
        """The login as the value of the Authorization header."""
        return f"Basic {b64encode(':'.join(self.login.values()).encode()).decode()}"

    def _of(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self.file["services"][service]
        return found

    def _here(self, text: str) -> str:
        """`text` with the services' host names and ports replaced by those on this machine.

        The client reaches MLflow without a proxy, so 127.0.0.1 is one of its names.
        """
        for name, port in (("database", 5432), ("store", 9000)):
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}")
        text = text.replace("--allowed-hosts=", "--allowed-hosts=127.0.0.1:*,")
        text = text.replace("--host=0.0.0.0", "--host=127.0.0.1")
        return text.replace("--port=5000", f"--port={self.ports['mlflow']}")

    def _make_database(self) -> None:
        """Create the database as the image does at its first start."""
        given = self._of("database")["environment"]
        password = self.folder / "password"
        password.write_text(given["POSTGRES_PASSWORD"])
        user = given["POSTGRES_USER"]
        if _owner():
            shutil.chown(self.folder, "postgres")
            shutil.chown(password, "postgres")
        words = given["POSTGRES_INITDB_ARGS"].split()
        place = ["-D", self.folder / "data", "-U", user, f"--pwfile={password}", "--no-sync"]
        initdb = [_postgres("initdb"), *words, "--auth-local=trust", *place]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, timeout=300, **_owner())
        password.unlink()
        single = [_postgres("postgres"), "--single", "-D", self.folder / "data", "postgres"]
        create = f"CREATE DATABASE {user};\n".encode()
        quiet = subprocess.DEVNULL
        subprocess.run(single, input=create, check=True, stdout=quiet, timeout=300, **_owner())

    def _database_answers(self) -> bool:
        import psycopg

        given = self._of("database")["environment"]
        try:
            psycopg.connect(
                host="127.0.0.1",
                port=self.ports["database"],
                user=given["POSTGRES_USER"],
                password=given["POSTGRES_PASSWORD"],
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    def _start(self, name: str, command: list[Any], **how: Any) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = self.environment(name)
            self.running[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, **how
            )

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not is_ready():
            log = (self.folder / f"{name}.log").read_text(errors="replace")
            assert self.running[name].poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.2)


def _postgres(name: str) -> str:
    """The path of one of PostgreSQL's programs, which Debian does not put on PATH.

    Raises:
        AssertionError: it is not installed.
    """
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (places[-1] if places else None)
    assert found, f"{name}: install postgresql"
    return str(found)


def _owner() -> dict[str, str]:
    """The user to run PostgreSQL as, because it does not run as root."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
