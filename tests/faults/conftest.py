"""Fixtures, and the table of promises, which is printed at the end of the session.

ENSWEEP_FAULTS_TABLE names a document to write it into (`make faults TABLE=docs/reliability.md`).
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drivers import Driver
from emulators import azurite
from fault_table import Table, markdown, put_into, rows_of
from planned_sweep import PlannedSweep
from scale import SCALE
from servers import Server
from stores import Served, s3_server

from mlflow_setup.filesystem import storage


@pytest.fixture
def table(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Table:
    (marker,) = request.node.iter_markers("promise")
    return Table(marker.args[0], record_property)


class Results:
    """Collects what the tests of all workers report."""

    def __init__(self) -> None:
        self.tests: dict[str, tuple[list[tuple[str, object]], bool]] = {}  # and whether it failed
        self.started = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or (report.when == "call" and report.passed):
            self.tests[report.nodeid] = (report.user_properties, report.failed)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        rows = rows_of(self.tests.values())
        if not rows:
            return
        minutes = (time.monotonic() - self.started) / 60
        run = f"ENSWEEP_FAULTS_SCALE={SCALE}, {os.cpu_count()} cores, {minutes:.0f} minutes."
        text = f"{markdown(rows)}\n{run}\n"
        terminalreporter.section("promises")
        terminalreporter.write(text)
        if document := os.environ.get("ENSWEEP_FAULTS_TABLE"):
            put_into(Path(document), text)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "promise(row, fault, must_hold): a row of the table that the test plays"
    )
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Report the promises before the fixtures run, because a test may fail in one of them."""
    if item.get_closest_marker("rare"):
        item.user_properties.append(("rare", True))
    for marker in item.iter_markers("promise"):
        item.user_properties.append(("promise", list(marker.args)))


@pytest.fixture(autouse=True)
def _kill_drivers() -> Iterator[None]:
    """Kill the drivers that a failed test has left running."""
    yield
    while Driver.started:
        driver = Driver.started.pop()
        if driver.process.poll() is None:
            driver.kill()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory at scale 1, because fsync on a disk takes most of the time."""
    memory = Path("/dev/shm")
    if SCALE > 1 or not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which executed code leaves a marker."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def one_thread(no_ray: None) -> Iterator[None]:
    """Run torch in one thread and without Ray, because threads do not survive a fork."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A tracking server, which a test may kill."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An S3 store in the environment variables, which are yielded."""
    with s3_server() as environment:
        _use(environment, monkeypatch, tmp_path)
        yield environment


@pytest.fixture(params=["s3", "azure"])
def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Served]:
    """An S3 store, then an Azure store."""
    is_s3 = request.param == "s3"
    with s3_server() if is_s3 else azurite(tmp_path / "azure") as environment:
        _use(environment, monkeypatch, tmp_path)
        found = ("s3", "AWS_ENDPOINT_URL") if is_s3 else ("az", "AZURE_STORAGE_ENDPOINT")
        yield Served(f"{found[0]}://bucket", found[1])


def _use(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Set the environment variables, and forget working copies of other stores."""
    monkeypatch.setattr(storage, "_working_copies", {})
    for name, value in (environment | {"ENSWEEP_CACHE": str(folder / "ours")}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def planned(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> PlannedSweep:
    return PlannedSweep(tmp_path, tiny_data, tiny_encoder)
