"""`ensweep ensemble` on a sweep that is logged in a real MLflow."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ensweep.cli.app import app
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import EpochRecord, Outcome, OutcomeRecord, TrialRecord
from mlflow_setup.tracking.client import MlflowClient, MlflowException
from mlflow_setup.tracking.store import resolve_tracking
from trainable.config.parse import from_flat
from trainable.config.tasks import PAPER_TASKS
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

NUM_ROWS = 80
LABELS = {
    "paraphrase": np.arange(NUM_ROWS) % 2.0,
    "similarity": np.arange(NUM_ROWS) % 6.0,
}


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds."""
    if request.function is not test_a_choice_is_logged_as_one_run_only_once:
        monkeypatch.setattr("ensemble.presentation.figures.pictures", lambda *_: {"gain.png": b""})


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An old sweep, and a new one with two uncertain runs that make different errors and a diverged
    one."""
    storage = tmp_path_factory.mktemp("storage")
    track(storage, "old", {"0001": (0, Outcome.FINISHED)})
    track(
        storage,
        "new",
        {
            "0001": (0, Outcome.FINISHED),
            "0002": (1, Outcome.PRUNED),
            "0003": (2, Outcome.DIVERGED),
        },
    )
    return storage


def track(storage: Path, sweep: str, trials: dict[str, tuple[int, Outcome]]) -> None:
    """One-epoch trials; number k is wrong and uncertain on every third paraphrase row from k on."""
    mirror = Mirror(resolve_tracking(storage), sweep)
    mirror.start({}, {})
    for trial, (number, outcome) in trials.items():
        folder = TrialFolder(storage / sweep / "trials" / trial)
        config = from_flat({"data.tasks": list(LABELS)}).flat()
        folder.create(TrialRecord(trial, sweep, "b3", config, {}, 0, "data", None, time.time()))
        right = 2 * LABELS["paraphrase"] - 1
        logits = np.where(np.arange(NUM_ROWS) % 3 == number, -0.4 * right, right)
        scores = LABELS["similarity"] + (number + 1) * np.sin(np.arange(80))
        parts = [outputs_of("paraphrase", logits), outputs_of("similarity", scores)]
        folder.write_predictions(1, parts)
        folder.keep_weights(1, lambda path: (path / "model.safetensors").touch())
        metrics = {"dev/overall": 0.5}
        folder.write_epoch(EpochRecord(1, metrics, metrics, 1.0, time.time()))
        folder.write_outcome(OutcomeRecord(outcome, "because", 1, time.time()))
        mirror.project(folder.snapshot())
    mirror.finish("FINISHED")


def outputs_of(task: str, outputs: np.ndarray) -> Predictions:
    ids = tuple(f"{task}-{row}" for row in range(NUM_ROWS))
    kind, values = PAPER_TASKS[task].kind, outputs.astype(np.float32)
    return Predictions(task, kind, "dev", ids, values, LABELS[task], f"{task}-data", "tok")


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(app, ["ensemble", *words])
    if isinstance(result.exception, ValueError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_the_table_of_the_latest_sweep(storage: Path) -> None:
    result = invoke("--storage", str(storage), "--method", "top")
    lines = result.stdout.splitlines()
    assert lines[0] == "sweep new: 2 candidates of 2 runs"
    assert lines[1] == "  rejected 0003: diverged: because"
    start = lines.index(next(line for line in lines if line.startswith("paraphrase: accuracy")))
    single, simple, selective = (line.split() for line in lines[start + 1 : start + 4])
    assert single[:2] == ["best", "single"]
    assert 0.5 < float(single[2]) < 1
    assert single[4] == "1.000"
    assert single[5] in ("0001@1", "0002@1")
    assert simple == ["simple", "1.0000", "1.0000", "2", "runs,", "equal", "weights"]
    assert selective == ["selective", *["1.0000"] * 2, "0.500", "0001@1,", "0.500", "0002@1"]
    assert lines[start + 4] == "  selective by top (1.0000 on the folds of dev-train)"
    assert lines[start + 5].startswith("  gain +")
    assert " over best single, +0.0000 [+0.0000, +0.0000] over simple; opti" in lines[start + 5]
    # selective is clearly better than best single, so there is no note
    assert lines[start + 6] == "  selective (1.0000) is not above simple (1.0000)"
    overall = lines[lines.index("overall") + 1 :]
    assert overall[2].split()[0] == "selective"
    assert overall[2].endswith("2 encoders")
    assert overall[4].startswith("  selective's gain over one for all +")
    front = lines[lines.index("levels of cost, each better than all cheaper ones") + 1 :]
    assert [line.split()[2:4] for line in front[:2]] == [["1", "encoder"], ["2", "encoders"]]
    assert front[1].endswith("  <- ships")
    assert "which the hyperparameter search has used" in result.stdout
    assert lines[-1].startswith("ship 2 encoders: +0.")
    assert lines[-1].endswith("] over the best single model")
    assert "\x1b" not in result.stdout
    assert f"pictures: {storage / 'new' / 'ensemble'}\n" in result.stderr
    assert "logged as MLflow run " in result.stderr
    assert result.stderr.endswith(
        f"next: ensweep export new --method top --output new-bundle --storage {storage}\n"
    )


def test_a_selective_ensemble_that_is_not_better_is_noted(storage: Path) -> None:
    lines = invoke("old", "--storage", str(storage), "--method", "skill").stdout.splitlines()
    notes = [line for line in lines if "is not above best single" in line]
    assert len(notes) == len(LABELS) + 1  # and overall


def test_json(storage: Path) -> None:
    content = json.loads(
        invoke("new", "--storage", str(storage), "--method", "top", "--json").stdout
    )
    assert (content["schema_version"], content["sweeps"]) == (1, ["new"])
    assert content["num_candidates"] == 2
    assert list(content["tasks"]) == list(LABELS)
    assert content["num_encoders"]["selective"] == 2
    assert [run["reason"] for run in content["rejected"]] == ["diverged: because"]
    members = content["tasks"]["paraphrase"]["methods"]["selective"]["members"]
    assert {member["trial"]: member["weight"] for member in members} == {"0001": 0.5, "0002": 0.5}
    assert members[0]["weights_uri"].endswith("/weights")


def test_a_choice_is_logged_as_one_run_only_once(storage: Path) -> None:
    words = ["old", "--storage", str(storage), "--method", "top"]
    first = invoke(*words).stderr
    tracking = resolve_tracking(storage)
    assert "logged as MLflow run " in first
    found = tracking.search({"kind": "ensemble", "sweeps": "old"}, "FINISHED")
    run = found[-1]
    assert f"logged before as MLflow run {run.info.run_id}\n" in invoke(*words).stderr
    assert len(tracking.search({"kind": "ensemble", "sweeps": "old"})) == len(found)
    trial = tracking.search({"kind": "trial", "sweep": "old"})[0].info.run_id
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    assert (tags["members"], tags["member_run_ids"]) == ("old.0001.0001", trial)
    assert (params["method"], params["rule/paraphrase"]) == ("top", "top")
    assert metrics["held_out/selective/paraphrase/accuracy"] == pytest.approx(2 / 3, abs=0.1)
    assert metrics["gain_over_simple/overall/value"] == 0
    assert metrics["num_encoders"] == metrics["trajectory/paraphrase/accuracy"] / (53 / 80) == 1
    artifacts = {entry.path for entry in tracking.client.list_artifacts(run.info.run_id)}
    assert artifacts == {"choice.json", "record.json"}  # no picture for one member
    (note,) = (storage / "old" / "ensemble").glob("*.json")
    assert json.loads(note.read_text()) == {"members": [{"trial": "0001", "epoch": 1}]}


def test_pictures_of_a_logged_choice_are_not_drawn_again(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are downloaded from the run."""
    words = ["new", "--storage", str(storage), "--method", "top", "--max-members", "2"]
    picture = storage / "new" / "ensemble" / "gain.png"
    drawn = {"gain.png": b"drawn"}
    monkeypatch.setattr("ensemble.presentation.figures.pictures", lambda pool, choice: drawn)
    assert "logged as MLflow run" in invoke(*words).stderr
    picture.write_bytes(b"of another choice")
    monkeypatch.setattr("ensemble.presentation.figures.pictures", lambda *_: {"no": b"other"})
    assert "logged before as MLflow run" in invoke(*words).stderr
    assert picture.read_bytes() == b"drawn"


def test_the_preference_decides_what_ships(storage: Path) -> None:
    """With a preference, two models do not ship if a task is clearly worse than with one."""
    given = ["new", "--storage", str(storage), "--method", "top", "--json"]
    whole = json.loads(invoke(*given).stdout)
    assert (whole["prefer"], whole["num_encoders"]["selective"]) == (None, 2)
    for prefer in ("single", "score"):
        content = json.loads(invoke(*given, "--prefer", prefer).stdout)
        assert (content["prefer"], content["num_encoders"]["selective"]) == (prefer, 1)
        assert content["verdict"].startswith("ship 1 encoder: the best single model; 2 encoders ")
        assert content["verdict"].endswith("clearly worse than with its best single model")
        assert content["milliseconds"] is None  # these runs have no weights


def test_a_choice_that_cannot_be_logged_is_shown(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **settings: object) -> None:
        raise MlflowException("permission denied")

    monkeypatch.setattr(MlflowClient, "create_run", refuse)
    result = invoke("old", "--storage", str(storage), "--method", "single")
    assert "selective by single" in result.stdout
    assert "not logged: MLflow tracking at sqlite:///" in result.stderr
    assert ": permission denied\n" in result.stderr


def test_several_sweeps(storage: Path) -> None:
    words = ["old", "new", "--storage", str(storage), "--method", "simple"]
    result = invoke(*words)
    lines = result.stdout.splitlines()
    assert lines[0] == "sweeps old, new: 2 candidates of 2 runs"
    assert lines[1] == "  rejected old/0001@1: a duplicate of new/0001@1"
    assert lines[2] == "  rejected new/0003: diverged: because"
    assert "0.500 new/0001@1, 0.500 new/0002@1" in result.stdout
    command = f"ensweep export old new --method simple --output old-new-bundle --storage {storage}"
    assert result.stderr.endswith(f"next: {command}\n")


def test_predictions_from_a_file(storage: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    labels = LABELS["paraphrase"].astype(int)
    path.write_text("id,label\n" + "".join(f"paraphrase-{n},{y}\n" for n, y in enumerate(labels)))
    words = ["old", "--storage", str(storage), "--method", "single", "--add", str(path)]
    result = invoke(*words)
    assert "  added mine.csv to paraphrase: labels, each with probability 0.9\n" in result.stdout
    assert "  selective   1.0000  1.0000  1.000 mine.csv\n" in result.stdout
    command = f"ensweep export old --method single --output old-bundle --storage {storage}"
    note = f"ensweep export will choose without mine.csv\nnext: {command}\n"
    assert result.stderr.endswith(note)
    content = json.loads(invoke(*words, "--json").stdout)
    assert content["added"][0]["file"] == "mine.csv"
    assert content["num_candidates"] == 1


def test_listed_runs(storage: Path) -> None:
    listed = ["--runs", "paraphrase=new/0001,new/0002", "--runs", "similarity=new/0001"]
    result = invoke("--storage", str(storage), *listed)
    assert result.stdout.startswith("listed runs: 2 candidates of 2 runs\n")
    content = json.loads(invoke("--storage", str(storage), *listed, "--json").stdout)
    weights = {
        name: {m["trial"]: m["weight"] for m in task["methods"]["selective"]["members"]}
        for name, task in content["tasks"].items()
    }
    assert weights == {"paraphrase": {"0001": 0.5, "0002": 0.5}, "similarity": {"0001": 1.0}}
    with pytest.raises(ConfigError, match=r"lists the members: .*combined with --method, --add"):
        invoke("--storage", str(storage), *listed, "--method", "top", "--add", "x.csv")


def test_the_rule_and_the_number_of_members_can_be_set(storage: Path) -> None:
    given = ["--method", "simple", "--max-members", "1", "--json"]
    content = json.loads(invoke("new", "--storage", str(storage), *given).stdout)
    assert [task["rule"] for task in content["tasks"].values()] == ["simple", "simple"]
    for task in content["tasks"].values():
        assert [member["weight"] for member in task["methods"]["selective"]["members"]] == [1.0]
        assert task["optimism"] == pytest.approx(
            task["methods"]["selective"]["scores"]["in_sample"]
            - task["methods"]["selective"]["scores"]["held_out"]
        )


def test_the_average_and_a_linear_model_can_be_set(storage: Path) -> None:
    given = ["--method", "stacking", "--average", "probabilities", "--json"]
    content = json.loads(invoke("new", "--storage", str(storage), *given).stdout)
    selective = content["tasks"]["paraphrase"]["methods"]["selective"]
    assert len(selective["intercept"]) == 1
    assert content["tasks"]["paraphrase"]["methods"]["simple"]["intercept"] is None


def test_a_cost_that_is_not_recorded_cannot_be_capped(storage: Path) -> None:
    with pytest.raises(ConfigError, match=r"parameters of .* are not recorded\nfix: .*--max-mem"):
        invoke("new", "--storage", str(storage), "--max-cost", "100")
    content = json.loads(
        invoke("new", "--storage", str(storage), "--method", "top", "--json").stdout
    )
    assert content["num_encoders"] == content["num_parameters"]


def test_an_unknown_rule_is_refused_with_the_known_ones(storage: Path) -> None:
    with pytest.raises(ConfigError, match=r"--method greddy: no such rule\nfix: one of simple, "):
        invoke("new", "--storage", str(storage), "--method", "greddy")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unknown"], "no trial of a sweep 'unknown' is tracked at sqlite"),
        ([], "no sweep is tracked"),
    ],
)
def test_a_storage_or_sweep_without_trials_is_refused(
    storage: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    where = storage if words else tmp_path
    with pytest.raises(NothingUsableError, match=message):
        invoke(*words, "--storage", str(where))
