"""Faults that would cost a sweep its money, planted one at a time: `ensweep plan` names each."""

import http.server
import json
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from fault_table import Table
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ensweep.cli.app import app

NUM_FAULTS, MUST_BE_CAUGHT = 40, 38
caught = pytest.mark.promise(
    "plan", "a fault that is planted before a sweep", "`ensweep plan` names it, within 60 s"
)


class Site:
    """A sound sweep with all that it needs, for a fault to be planted in."""

    def __init__(self, folder: Path, data: Path, encoder: Path) -> None:
        self.folder, self.data, self.encoder = folder, folder / "data", folder / "encoder"
        shutil.copytree(data, self.data)
        shutil.copytree(encoder, self.encoder)
        self.storage, self.tracking = folder / "runs", ""
        self.closing: list[Callable[[], object]] = []
        self.text: str | None = None  # of the sweep's file, in place of `sweep`
        self.sweep: dict[str, Any] = {
            "recipe": "b3",
            "config": {
                "data.dir": str(self.data),
                "model.encoder": str(self.encoder),
                "model.fcn_size": 16,
                "train.num_epochs": 2,
                "batching.batch_size": 8,
            },
            "space": {
                "optim.lr": {"type": "float", "low": 1e-4, "high": 1e-3, "log": True},
                "model.head_dropout": {"type": "float", "low": 0.0, "high": 0.4},
            },
            "first_trials": [{"recipe": "baseline", "optim.lr": 2e-4}],
            "search": {"num_samples": 3, "baselines": False},
            "resources": {"gpus_per_trial": 0},
        }
        self.sweep["config"]["pretrain.enabled"] = False

    def command(self) -> list[str]:
        path = self.folder / "mine.yaml"
        path.write_text(self.text or yaml.safe_dump(self.sweep, sort_keys=False), encoding="utf-8")
        words = ["plan", str(path), "--name", "s", "--storage", str(self.storage)]
        return words + (["--tracking-uri", self.tracking] if self.tracking else [])

    def plan(self) -> tuple[int, str, float]:
        """Exit code, output, seconds."""
        started = time.monotonic()
        done = CliRunner().invoke(app, self.command())
        for close in self.closing:
            close()
        if done.exception is None or isinstance(done.exception, SystemExit):
            return done.exit_code, done.output, time.monotonic() - started
        return 2, f"{done.output}{done.exception}", time.monotonic() - started

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the first `old` in a file of the data."""
        path = self.data / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def lines(self, name: str, change: Callable[[list[str]], object]) -> None:
        path = self.data / name
        lines = path.read_text(encoding="utf-8").splitlines()
        change(lines)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, tiny_data: Path, tiny_encoder: Path) -> Site:
    return Site(tmp_path, tiny_data, tiny_encoder)


def _config(**given: Any) -> Callable[[Site], object]:
    return lambda site: site.sweep["config"].update(
        {key.replace("__", "."): value for key, value in given.items()}
    )


def _space(key: str, **parameter: Any) -> Callable[[Site], object]:
    return lambda site: site.sweep["space"].update({key: parameter})


def _set(section: str, **given: Any) -> Callable[[Site], object]:
    return lambda site: site.sweep.setdefault(section, {}).update(given)


def _twice(site: Site) -> None:
    site.text = yaml.safe_dump(site.sweep) + "recipe: b2\n"


def _fixed_and_searched(site: Site) -> None:
    site.sweep["config"]["optim.lr"] = 1e-4


def _cell(row: int, column: int, value: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        cells = lines[row].split("\t")
        cells[column] = value
        lines[row] = "\t".join(cells)

    return change


def _weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        path = site.encoder / "model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return plant


def _nan(weights: dict[str, Any]) -> None:
    weights["embeddings.word_embeddings.weight"][:] = float("nan")


def _truncated(site: Site) -> None:
    path = site.encoder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _encoder_setting(**given: Any) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        path = site.encoder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | given))

    return plant


def _without_tokenizer(site: Site) -> None:
    for path in site.encoder.glob("*token*"):
        path.unlink()


def _foreign_tokenizer(site: Site) -> None:
    """Its ids go beyond the encoder's embeddings."""
    path = site.encoder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {w: i + 500 * (i > 4) for w, i in words.items()}
    path.write_text(json.dumps(content))


def _storage(place: str) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        if place == "file":
            site.storage.write_text("")
        else:
            site.storage = Path(place)
            site.tracking = f"sqlite:///{site.folder}/mlflow.db"

    return plant


def _taken_folder(site: Site) -> None:
    (site.storage / "s").mkdir(parents=True)


def _taken_in_mlflow(site: Site) -> None:
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.tracking.store import resolve_tracking

    Mirror(resolve_tracking(site.storage), "s").start({}, {}, {})


def _deleted_experiment(site: Site) -> None:
    from mlflow_setup.tracking.store import resolve_tracking

    tracking = resolve_tracking(site.storage)
    tracking.check()
    tracking.client.delete_experiment(tracking.experiment_id)


def _no_database(site: Site) -> None:
    site.storage.mkdir()
    (site.storage / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 100)


def _newer_database(site: Site) -> None:
    from mlflow_setup.tracking.store import resolve_tracking

    other = site.folder / "other"
    resolve_tracking(other).check()
    with sqlite3.connect(other / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    site.storage.mkdir()
    shutil.copy(other / "mlflow.db", site.storage)


def _server(status: int) -> Callable[[Site], None]:
    """A server that answers every request with `status`, or (0) never."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            if not status:
                time.sleep(30)
            self.send_response(status or 200)
            self.end_headers()

        do_GET = do_POST = _answer

        def log_message(self, *_: object) -> None:
            pass

    def plant(site: Site) -> None:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site.closing.append(server.shutdown)
        site.tracking = f"http://127.0.0.1:{server.server_port}"

    return plant


def _tracking(uri: str) -> Callable[[Site], None]:
    return lambda site: setattr(site, "tracking", uri)


def _teacher(teacher: str) -> Callable[[Site], object]:
    return _config(distill__enabled=True, distill__teacher=teacher)


BY_DRIVER: dict[str, tuple[Callable[[Site], object], str]] = {
    "a misspelt setting": (_config(optim__lrr=1), r"optim\.lrr"),
    "a misspelt key of the space": (
        _space("optim.rate", type="float", low=1, high=2),
        "optim.rate",
    ),
    "low above high": (_space("optim.lr", type="float", low=1e-3, high=1e-4), "low must be below"),
    "the logarithm of 0": (
        _space("optim.lr", type="float", low=0, high=1e-4, log=True),
        "low must be above 0",
    ),
    "a choice that is none": (
        _space("batching.strategy", type="categorical", choices=["even", "evn"]),
        r"batching\.strategy.*evn",
    ),
    "an end out of range": (
        _space("model.head_dropout", type="float", low=0.1, high=1.5),
        r"model\.head_dropout",
    ),
    "an unknown recipe": (lambda site: site.sweep.update(recipe="b33"), "b33"),
    "a first trial outside the space": (
        lambda site: site.sweep["first_trials"].append({"recipe": "b2", "optim.lr": 0.5}),
        "outside the space",
    ),
    "a condition on a key below": (
        _space("model.head_dropout", type="float", low=0.0, high=0.4, when={"model.late": True}),
        r"model\.late",
    ),
    "fixed and searched": (_fixed_and_searched, "both fixed"),
    "a key twice": (_twice, "twice|duplicate"),
    "a limit without a price": (_set("budget", max_usd=5.0), "price"),
    "no trials": (_set("search", num_samples=0), "num_samples"),
    "settings that exclude each other": (
        _config(train__stages=["finetune", "swa"], train__early_stopping_epochs=2),
        "early_stopping",
    ),
    "no data folder": (_config(data__dir="/nowhere/at/all"), "/nowhere/at/all"),
    "a file that is missing": (
        lambda site: (site.data / "quora-train.csv").unlink(),
        r"quora-train\.csv",
    ),
    "a label out of range": (
        lambda site: site.lines("ids-sst-dev.csv", _cell(3, -1, "7")),
        r"ids-sst-dev\.csv.*7",
    ),
    "an id twice": (
        lambda site: site.lines("sts-train.csv", lambda lines: lines.append(lines[1])),
        r"sts-train\.csv",
    ),
    "a missing column": (
        lambda site: site.edit("quora-dev.csv", "is_duplicate", "is_same"),
        "is_duplicate",
    ),
    "nothing but a header": (
        lambda site: site.lines("sts-dev.csv", lambda lines: lines.__delitem__(slice(1, None))),
        r"sts-dev\.csv|no sound dev row",
    ),
    "another encoding": (
        lambda site: (site.data / "sts-train.csv").write_bytes(
            (site.data / "sts-train.csv").read_text().encode("utf-16")
        ),
        r"sts-train\.csv",
    ),
    "a row without label": (
        lambda site: site.lines("quora-train.csv", _cell(5, -1, "")),
        r"quora-train\.csv",
    ),
    "a teacher that is not tracked": (_teacher("run:" + "0" * 32), "0{32}"),
    "a teacher that is no bundle": (_teacher("bundle:/nowhere/bundle"), "/nowhere/bundle"),
    "a storage folder that is a file": (_storage("file"), "storage|runs"),
    "a storage folder that takes nothing": (_storage("/proc/ensweep"), "storage /proc/ensweep"),
    "a server that is not there": (_tracking("http://127.0.0.1:9"), "127.0.0.1:9"),
    "a server with a fault": (_server(500), "500|MLflow tracking"),
    "a server that does not answer": (_server(0), "MLflow tracking.*[Tt]imed? ?out"),
    "a database that is none": (_no_database, "not a database"),
    "a database of another version": (_newer_database, "schema|ffffffffffff|revision"),
    "tracking in files": (_tracking("./mlruns"), "MLflow tracking"),
    "a name that is taken": (_taken_folder, "'s' already exists"),
    "a name that is tracked": (_taken_in_mlflow, "'s' is already tracked"),
    "an experiment in the trash": (_deleted_experiment, "is deleted"),
}
BY_TASK: dict[str, tuple[Callable[[Site], object], str]] = {
    "an encoder that is nowhere": (_config(model__encoder="nobody/nothing"), "nobody/nothing"),
    "half an encoder": (_truncated, "task: .*encoder"),
    "weights of another shape": (_encoder_setting(hidden_size=32), "task: .*"),
    "weights that are missing": (
        _weights(lambda weights: weights.pop("encoder.layer.0.output.dense.weight")),
        "task: .*",
    ),
    "weights that are no numbers": (_weights(_nan), "task: .*(nan|not finite)"),
    "no tokenizer": (_without_tokenizer, "task: .*"),
    "another encoder's tokenizer": (_foreign_tokenizer, "task: .*"),
    "more CPUs than any machine has": (_set("resources", cpus_per_trial=640), "640 CPUs"),
    "GPUs that are not there": (_set("resources", gpus_per_trial=4), "4 GPUs"),
    "a GPU that torch does not see": (_set("resources", gpus_per_trial=1), "torch .* sees none"),
    "an hour that is too short": (_set("budget", max_hours=1e-6), "used up before the first"),
    "a price of other machines": (
        _set("budget", max_usd=5.0, usd_per_hour={"gpu_spot": 0.4}),
        "no price is known for local",
    ),
}


A_FORECAST = pytest.mark.rare("test_plan.py has a forecast, and other faults are found before one")


@pytest.mark.promise("plan", "none: a sound sweep", "no false alarm, within 60 s")
@A_FORECAST
def test_a_sound_sweep_is_forecast(site: Site, cluster: None, table: Table) -> None:
    code, output, seconds = site.plan()
    assert code == 0, output
    assert not any(line.startswith("error") for line in output.splitlines())
    for words in ("drawn trial 1: ", "largest with ", "3 trials, at most 6 epochs", "GB free"):
        assert words in output
    table.measured("a plan took", [seconds], within=60)


@caught
@pytest.mark.parametrize("fault", BY_DRIVER)
def test_what_the_driver_can_see(site: Site, table: Table, fault: str) -> None:
    plant, words = BY_DRIVER[fault]
    plant(site)
    code, output, seconds = site.plan()
    assert code in (2, 3, 5, 6), output
    assert re.search(words, output), output
    table.measured("a plan took", [seconds], within=60)


@caught
@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=A_FORECAST if "torch" in name or "hour" in name else ())
        for name in BY_TASK
    ],
)
def test_what_only_a_task_can_see(site: Site, cluster: None, table: Table, fault: str) -> None:
    plant, words = BY_TASK[fault]
    plant(site)
    code, output, seconds = site.plan()
    assert code in (2, 3, 5, 6), output
    assert re.search(words, output), output
    table.measured("a plan took", [seconds], within=60)


@caught
def test_a_cluster_that_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As to a process that has no cluster yet."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        code, output, _ = site.plan()
    assert code == 2, output
    assert f"RAY_ADDRESS={address}" in output


def test_there_are_enough_faults() -> None:
    """Each of the tables' rows is caught, so that two could go and the promise would stand."""
    assert len(BY_DRIVER) + len(BY_TASK) + 1 >= NUM_FAULTS
    assert MUST_BE_CAUGHT < NUM_FAULTS


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> Iterator[None]:
    """Two CPUs, and a GPU that only Ray believes in."""
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
