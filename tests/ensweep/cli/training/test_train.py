"""A run of `ensweep train` is tracked, listed, exported and used for prediction like a sweep's."""

import json
import shlex
from pathlib import Path

import pytest
from past_sweep import Past
from stores import URI, Machines
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, DataError, EnsweepError
from mlflow_setup.filesystem.lease import Lease
from mlflow_setup.runs.query import find_trials, tracked_sweeps
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.tracking.store import resolve_tracking
from search.storage.sweep_folder import sweep_names
from trainable.runtime.progress import Work, report_to
from trainable.runtime.rng_state import seed_globals
from trainable.storage.layout import STOP_REQUEST


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a b") / "my runs"  # paths with spaces


@pytest.fixture(scope="module")
def trained(storage: Path, tiny_encoder: Path, tiny_data: Path) -> Result:
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        return train(storage, tiny_encoder, tiny_data)


def train(
    storage: Path | str, encoder: Path, data: Path, *more: str, recipe: str = "baseline"
) -> Result:
    settings = (f"model.encoder={encoder}", "train.num_epochs=2", "train.precision=fp32")
    words = ["train", recipe, "--data-dir", str(data), "--storage", str(storage)]
    return run(*words, *settings, *more)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_it_is_tracked_and_on_the_leaderboard(trained: Result, storage: Path) -> None:
    assert trained.exit_code == 0, trained.output
    assert f"in {storage / 'train' / 'trials' / 'baseline'}\n" in trained.stdout
    tracking = resolve_tracking(storage, None)
    (found,) = find_trials(tracking, "train")
    assert (found.trial, found.status, found.outcome) == ("baseline", "FINISHED", "finished")
    assert found.params["train.num_epochs"] == "2"
    points = tracking.client.get_metric_history(found.run_id, "dev/overall")
    assert [point.step for point in points] == [1, 2]
    assert Mirror(tracking, "train").parent_status() == "FINISHED"
    board = json.loads(run("leaderboard", "train", "--storage", str(storage), "--json").stdout)
    assert [row["trial"] for row in board["trials"]] == ["baseline"]


def test_the_printed_next_commands_can_be_run(
    trained: Result, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in trained.stderr.splitlines() if line.startswith("next: ")]
    commands = [shlex.split(line.removeprefix("next: ")) for line in lines]
    assert [words[:2] for words in commands] == [["ensweep", "leaderboard"], ["ensweep", "export"]]
    monkeypatch.chdir(tmp_path)
    for words in commands:
        done = run(*words[1:])
        assert done.exit_code == 0, done.output
    text = ["--task", "sentiment", "--text", "a warm film"]
    predicted = run("predict", "baseline-bundle", *text, "--json")
    assert json.loads(predicted.stdout)["predictions"]


def test_the_same_command_has_the_same_result_and_another_name_is_another_run(
    trained: Result, storage: Path, tiny_encoder: Path, tiny_data: Path
) -> None:
    assert train(storage, tiny_encoder, tiny_data).stdout == trained.stdout
    changed = train(storage, tiny_encoder, tiny_data, "optim.lr=1e-3").exception
    assert isinstance(changed, ConfigError)
    assert "another configuration" in str(changed)
    other = train(storage, tiny_encoder, tiny_data, "optim.lr=1e-3", "--name", "fast", "--json")
    content = json.loads(other.stdout)
    found = {each.trial: each.run_id for each in find_trials(resolve_tracking(storage), "train")}
    assert content["run_id"] == found["fast"]
    assert content["outcome"] == "finished"
    assert content["best_epoch"] in (1, 2)
    assert set(found) == {"baseline", "fast"}


def test_at_a_storage_uri_it_is_resumed_on_any_machine(
    trained: Result,
    storage: Path,
    tiny_encoder: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The files in the object store equal those on a disk."""
    machines = Machines(monkeypatch, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    seeds: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(
            "trainable.training.train.seed_globals",
            lambda seed: (seeds.append(seed), seed_globals(seed)),
        )
        patched.setattr("ensweep.cli.training.train.StopOnSignal.__call__", lambda _: bool(seeds))
        stopped = train(URI, tiny_encoder, tiny_data)
    assert stopped.stdout.startswith("stopped: asked to stop in epoch 1"), stopped.output
    assert not any("stop-request" in name for name in machines.names())
    machines.next_one(monkeypatch)
    done = train(URI, tiny_encoder, tiny_data)
    assert done.exit_code == 0, done.output
    assert f"in {URI}/train/trials/baseline\n" in done.stdout
    machines.next_one(monkeypatch)
    assert train(URI, tiny_encoder, tiny_data).stdout == done.stdout
    machines.next_one(monkeypatch)
    board = json.loads(run("leaderboard", "--storage", URI, "--json").stdout)
    assert [row["trial"] for row in board["trials"]] == ["baseline"]
    there = {
        name: machines.memory.get(name).bytes().to_bytes()
        for name in machines.names()
        if name.startswith("train/trials/baseline/")
    }
    here = storage / "train" / "trials" / "baseline"
    on_disk = {
        f"train/trials/baseline/{path.relative_to(here)}": path.read_bytes()
        for path in here.rglob("*")
        if path.is_file()
    }
    content = [name for name in on_disk if name.endswith((".parquet", ".safetensors"))]
    assert len(content) == 4  # predictions of two epochs, weights of one in two files
    assert {name: there[name] for name in content} == {name: on_disk[name] for name in content}


def test_two_folders_never_share_a_run(
    trained: Result, storage: Path, tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    place = ("--output", str(tmp_path / "baseline"))
    error = train(storage, tiny_encoder, tiny_data, *place).exception
    assert isinstance(error, ConfigError)
    assert "a run 'baseline' is tracked already" in str(error)
    assert not (tmp_path / "baseline").exists()


def test_a_refused_training_leaves_its_name_free(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    for given, data, kind in (
        (tiny_encoder, tmp_path / "none", DataError),
        (tmp_path / "none", tiny_data, EnsweepError),
    ):
        assert isinstance(train(tmp_path / "runs", given, data).exception, kind)
        assert not (tmp_path / "runs" / "train" / "trials" / "baseline").exists()
    assert tracked_sweeps(resolve_tracking(tmp_path / "runs")) == []


def test_a_second_process_is_refused_and_a_request_stops_the_first(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_setup.filesystem.lease.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("search.driver.training._POLL_SECONDS", 0.0)
    folder = tmp_path / "runs" / "train" / "trials" / "baseline"
    folder.mkdir(parents=True)
    with Lease(folder):
        error = train(tmp_path / "runs", tiny_encoder, tiny_data).exception
    assert isinstance(error, ConfigError)
    assert "training baseline is being run by process" in str(error)

    def ask(*_: object) -> None:  # while the data are read the lease is not held yet
        (folder / STOP_REQUEST).touch()

    monkeypatch.setattr("trainable.training.train.seed_globals", ask)
    stopped = train(tmp_path / "runs", tiny_encoder, tiny_data)
    assert stopped.exit_code == 75
    assert stopped.stdout.startswith("stopped: asked to stop in epoch 1")
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert train(tmp_path / "runs", tiny_encoder, tiny_data).exit_code == 0
    (found,) = find_trials(resolve_tracking(tmp_path / "runs"), "train")
    assert found.status == "FINISHED"


def test_it_reports_progress_within_an_epoch(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainable.runtime.progress._REPORT_SECONDS", 0.0)
    reports: list[Work] = []
    with report_to(reports.append):
        assert train(tmp_path / "runs", tiny_encoder, tiny_data).exit_code == 0
    for number in (1, 2):
        of_epoch = [work for work in reports if work.what == f"epoch {number}/2"]
        assert [work.fraction for work in of_epoch] == [step / 9 for step in range(10)]
        assert all(work.loss is not None and 0 < work.loss < 10 for work in of_epoch[1:])
        assert all(work.rate for work in of_epoch[1:])
        assert of_epoch[-1].seconds_left == 0
    assert "embedding sentences" in {work.what for work in reports}  # dev, at the end of an epoch


def test_the_latest_sweep_is_a_search_if_there_is_one(
    trained: Result, storage: Path, tmp_path: Path
) -> None:
    assert sweep_names(storage) == ["train"]
    past = Past(tmp_path)
    (tmp_path / "train" / "trials").mkdir(parents=True)
    assert sweep_names(tmp_path) == [past.folder.name, "train"]
    tracking = resolve_tracking(tmp_path, None)
    for name in (past.folder.name, "train"):  # the trainings began last
        Mirror(tracking, name).start({}, {})
    assert tracked_sweeps(tracking) == [past.folder.name, "train"]
