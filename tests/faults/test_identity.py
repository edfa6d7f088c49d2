"""O3, O4: a sweep that was broken ends bit by bit as an undisturbed one, and the same ensemble is
chosen from it: real training, tiny BERT."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray
from drivers import assert_whole, is_at_a_trial
from fault_table import Table
from ray.cluster_utils import Cluster
from real_sweep import choice, content, end, ensweep, record, sweep_file, wait_for_epochs
from recovery import AGAIN, RECOVERED, blows_on, blows_to_all, nodes_at_work, num_epochs_again
from scale import MANY
from stores import URI
from typer.testing import CliRunner

from ensweep.cli.app import app
from mlflow_setup.filesystem.object_store import ObjectStore
from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.tracking.store import Tracking, resolve_tracking

pytestmark = pytest.mark.slow

NUM_EPOCHS = 6
SAME = (
    "metrics of every epoch, every kept weight and the chosen ensemble are bit by bit those of an "
    "undisturbed sweep (tiny BERT, CPU)"
)
rare = pytest.mark.rare("a worker and a driver are killed")


@pytest.fixture(scope="module")
def calm(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_data: Path, one_ray: None
) -> Path:
    """The folder of the undisturbed sweep: its file, and its storage `runs`."""
    folder = tmp_path_factory.mktemp("calm")
    file = sweep_file(folder, tiny_encoder, tiny_data, at_once=2 if MANY else 1)
    words = ["sweep", str(file), "--storage", str(folder / "runs"), "--name", "s"]
    assert CliRunner().invoke(app, words).exit_code == 0
    return folder


@pytest.fixture
def words(calm: Path, tmp_path: Path) -> tuple[str, ...]:
    """Begin the same sweep elsewhere."""
    resolve_tracking(tmp_path / "runs").check()  # the database is made more quickly here
    return ("sweep", str(calm / "mine.yaml"), "--name", "s", "--storage", str(tmp_path / "runs"))


@pytest.fixture
def again(tmp_path: Path) -> tuple[str, ...]:
    """Go on with it."""
    return ("resume", "s", "--storage", str(tmp_path / "runs"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with two_nodes() as cluster:
        yield cluster


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A head that runs no trials, and two nodes of one CPU."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def assert_same(folder: Path, calm: Path) -> None:
    assert_whole(folder, 3, num_epochs=NUM_EPOCHS, is_pretended=False)
    assert record(folder / "runs", "s") == record(calm / "runs", "s")
    if MANY:
        assert choice(folder / "runs", "s") == choice(calm / "runs", "s")


@pytest.mark.promise("O3", "SIGKILL of a trial's process, then of the driver; `resume`", SAME)
def test_killed_workers_and_a_killed_driver_change_nothing(
    calm: Path, words: tuple[str, ...], again: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    driver = ensweep(*words)
    wait_for_epochs(tmp_path, 2, driver)
    processes = psutil.Process(driver.pid).children(recursive=True)
    next(process for process in processes if is_at_a_trial(process)).kill()
    time.sleep(1)
    driver.kill()
    driver.communicate()
    blows = blows_to_all(tmp_path)
    end(ensweep(*again))
    assert_same(tmp_path, calm)
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


@rare
@pytest.mark.promise("O3", "a node is removed hard", SAME)
def test_a_lost_node_changes_nothing(
    calm: Path, words: tuple[str, ...], tmp_path: Path, cluster: Cluster, table: Table
) -> None:
    driver = ensweep(*words, RAY_ADDRESS=cluster.address)
    wait_for_epochs(tmp_path, 3, driver)
    while not (at_work := nodes_at_work(cluster)):  # between two trials
        assert driver.poll() is None, driver.communicate()[0]
    blows = blows_on(at_work[-1])
    cluster.remove_node(at_work[-1], allow_graceful=False)
    cluster.add_node(num_cpus=1)
    end(driver)
    assert_same(tmp_path, calm)
    assert blows
    assert all(blow.is_over() for blow in blows)
    table.measured(RECOVERED, [b.seconds_to_recover() for b in blows if b.has_hit()])
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


@rare
@pytest.mark.promise("O3", "SIGKILL of everything at once, and again during `resume`", SAME)
def test_everything_killed_twice_changes_nothing(
    calm: Path, words: tuple[str, ...], again: tuple[str, ...], tmp_path: Path, table: Table
) -> None:
    blows = []
    for verb, num_epochs in ((words, 3), (again, 8)):
        driver = ensweep(*verb)
        wait_for_epochs(tmp_path, num_epochs, driver)
        children = psutil.Process(driver.pid).children(recursive=True)
        for process in (driver, *children):
            process.kill()
        driver.communicate()
        since = time.time()
        blows += [(blow, since) for blow in blows_to_all(tmp_path)]
    end(ensweep(*again))
    assert_same(tmp_path, calm)
    table.played(2)
    hit = [(blow, since) for blow, since in blows if blow.has_hit()]
    table.measured(RECOVERED, [blow.seconds_to_recover(since) for blow, since in hit])
    table.measured(AGAIN, num_epochs_again(blow for blow, _ in blows), unit="epochs", within=1)


@rare
@pytest.mark.promise("O3", "the cluster is gone; `resume` on another", SAME)
def test_another_cluster_changes_nothing(
    calm: Path,
    words: tuple[str, ...],
    again: tuple[str, ...],
    tmp_path: Path,
    cluster: Cluster,
    table: Table,
) -> None:
    driver = ensweep(*words, RAY_ADDRESS=cluster.address)
    wait_for_epochs(tmp_path, 3, driver)
    cluster.shutdown()
    driver.kill()
    driver.communicate()
    blows = blows_to_all(tmp_path)
    with two_nodes() as other:
        end(ensweep(*again, RAY_ADDRESS=other.address))
    assert_same(tmp_path, calm)
    table.measured(AGAIN, num_epochs_again(blows), unit="epochs", within=1)


@rare
@pytest.mark.promise(
    "O3",
    "none; the sweep is in an object store",
    "its files are those of the same sweep on a disk: predictions and weights byte for byte, "
    "records but for times, processes and the storage's name (tiny BERT, CPU)",
)
def test_in_an_object_store_a_sweep_is_what_it_is_on_a_disk(
    calm: Path, s3: dict[str, str], tmp_path: Path, table: Table
) -> None:
    tracking = Tracking(f"sqlite:///{tmp_path}/runs.db")
    place = ("--storage", URI, "--tracking-uri", tracking.uri)
    end(ensweep("sweep", str(calm / "mine.yaml"), "--name", "s", *place))
    storage, store, on_disk = storage_folder(URI), ObjectStore(URI), calm / "runs"
    whole = {"num_epochs": NUM_EPOCHS, "is_pretended": False}
    assert_whole(tmp_path, 3, tracking, storage=storage, **whole)
    assert record(storage, "s") == record(on_disk, "s")
    there = {name: store.get(name)[0] for name in store.entries("s")}
    files = (path for path in (on_disk / "s").rglob("*") if path.is_file())
    here = {path.relative_to(on_disk).as_posix(): path.read_bytes() for path in files}
    found, wanted = content(there), content(here)
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []
    assert sum(isinstance(each, bytes) for each in found.values()) > 3 * NUM_EPOCHS
    table.played(len(found))
