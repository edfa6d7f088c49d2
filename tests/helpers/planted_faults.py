"""A valid sweep, and faults to plant into it, one at a time."""

import http.server
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ensweep.cli.app import app


class Site:
    """A valid sweep with its data, encoder, storage and tracking, to plant a fault in."""

    def __init__(self, folder: Path, data: Path, encoder: Path) -> None:
        self.folder, self.data, self.encoder = folder, folder / "data", folder / "encoder"
        shutil.copytree(data, self.data)
        shutil.copytree(encoder, self.encoder)
        self.storage, self.tracking = folder / "runs", ""
        self.closing: list[Callable[[], object]] = []
        self.text: str | None = None  # text of the sweep's file, instead of `sweep`
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
        """Run `ensweep plan`. Return exit code, output, and seconds."""
        started = time.monotonic()
        done = CliRunner().invoke(app, self.command())
        for close in self.closing:
            close()
        if done.exception is None or isinstance(done.exception, SystemExit):
            return done.exit_code, done.output, time.monotonic() - started
        return 2, f"{done.output}{done.exception}", time.monotonic() - started

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the first `old` in a data file."""
        path = self.data / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def lines(self, name: str, change: Callable[[list[str]], object]) -> None:
        path = self.data / name
        lines = path.read_text(encoding="utf-8").splitlines()
        change(lines)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(**given: Any) -> Callable[[Site], object]:
    return lambda site: site.sweep["config"].update(
        {key.replace("__", "."): value for key, value in given.items()}
    )


def space(key: str, **parameter: Any) -> Callable[[Site], object]:
    return lambda site: site.sweep["space"].update({key: parameter})


def set(section: str, **given: Any) -> Callable[[Site], object]:
    return lambda site: site.sweep.setdefault(section, {}).update(given)


def twice(site: Site) -> None:
    site.text = yaml.safe_dump(site.sweep) + "recipe: b2\n"


def fixed_and_searched(site: Site) -> None:
    site.sweep["config"]["optim.lr"] = 1e-4


def cell(row: int, column: int, value: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        cells = lines[row].split("\t")
        cells[column] = value
        lines[row] = "\t".join(cells)

    return change


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        path = site.encoder / "model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return plant


def nan(weights: dict[str, Any]) -> None:
    weights["embeddings.word_embeddings.weight"][:] = float("nan")


def truncated(site: Site) -> None:
    path = site.encoder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def encoder_setting(**given: Any) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        path = site.encoder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | given))

    return plant


def without_tokenizer(site: Site) -> None:
    for path in site.encoder.glob("*token*"):
        path.unlink()


def foreign_tokenizer(site: Site) -> None:
    """A tokenizer whose ids exceed the encoder's embeddings."""
    path = site.encoder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {w: i + 500 * (i > 4) for w, i in words.items()}
    path.write_text(json.dumps(content))


def storage(place: str) -> Callable[[Site], None]:
    def plant(site: Site) -> None:
        if place == "file":
            site.storage.write_text("")
        else:
            site.storage = Path(place)
            site.tracking = f"sqlite:///{site.folder}/mlflow.db"

    return plant


def taken_folder(site: Site) -> None:
    (site.storage / "s").mkdir(parents=True)


def taken_in_mlflow(site: Site) -> None:
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.tracking.store import resolve_tracking

    Mirror(resolve_tracking(site.storage), "s").start({}, {}, {})


def deleted_experiment(site: Site) -> None:
    from mlflow_setup.tracking.store import resolve_tracking

    tracking = resolve_tracking(site.storage)
    tracking.check()
    tracking.client.delete_experiment(tracking.experiment_id)


def no_database(site: Site) -> None:
    site.storage.mkdir()
    (site.storage / "mlflow.db").write_bytes(b"not a database, whatever its name says" * 100)


def newer_database(site: Site) -> None:
    from mlflow_setup.tracking.store import resolve_tracking

    other = site.folder / "other"
    resolve_tracking(other).check()
    with sqlite3.connect(other / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    site.storage.mkdir()
    shutil.copy(other / "mlflow.db", site.storage)


def server(status: int) -> Callable[[Site], None]:
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


def tracking(uri: str) -> Callable[[Site], None]:
    return lambda site: setattr(site, "tracking", uri)


def teacher(teacher: str) -> Callable[[Site], object]:
    return config(distill__enabled=True, distill__teacher=teacher)


BY_DRIVER: dict[str, tuple[Callable[[Site], object], str]] = {
    "a misspelt setting": (config(optim__lrr=1), r"optim\.lrr"),
    "a misspelt key of the space": (
        space("optim.rate", type="float", low=1, high=2),
        "optim.rate",
    ),
    "low above high": (space("optim.lr", type="float", low=1e-3, high=1e-4), "low must be below"),
    "the logarithm of 0": (
        space("optim.lr", type="float", low=0, high=1e-4, log=True),
        "low must be above 0",
    ),
    "a choice that is none": (
        space("batching.strategy", type="categorical", choices=["even", "evn"]),
        r"batching\.strategy.*evn",
    ),
    "an end out of range": (
        space("model.head_dropout", type="float", low=0.1, high=1.5),
        r"model\.head_dropout",
    ),
    "an unknown recipe": (lambda site: site.sweep.update(recipe="b33"), "b33"),
    "a first trial outside the space": (
        lambda site: site.sweep["first_trials"].append({"recipe": "b2", "optim.lr": 0.5}),
        "outside the space",
    ),
    "a condition on a key below": (
        space("model.head_dropout", type="float", low=0.0, high=0.4, when={"model.late": True}),
        r"model\.late",
    ),
    "fixed and searched": (fixed_and_searched, "both fixed"),
    "a key twice": (twice, "twice|duplicate"),
    "a limit without a price": (set("budget", max_usd=5.0), "price"),
    "no trials": (set("search", num_samples=0), "num_samples"),
    "settings that exclude each other": (
        config(train__stages=["finetune", "swa"], train__early_stopping_epochs=2),
        "early_stopping",
    ),
    "no data folder": (config(data__dir="/nowhere/at/all"), "/nowhere/at/all"),
    "a file that is missing": (
        lambda site: (site.data / "quora-train.csv").unlink(),
        r"quora-train\.csv",
    ),
    "a label out of range": (
        lambda site: site.lines("ids-sst-dev.csv", cell(3, -1, "7")),
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
        lambda site: site.lines("quora-train.csv", cell(5, -1, "")),
        r"quora-train\.csv",
    ),
    "a teacher that is not tracked": (teacher("run:" + "0" * 32), "0{32}"),
    "a teacher that is no bundle": (teacher("bundle:/nowhere/bundle"), "/nowhere/bundle"),
    "a storage folder that is a file": (storage("file"), "storage|runs"),
    "a storage folder that takes nothing": (storage("/proc/ensweep"), "storage /proc/ensweep"),
    "a server that is not there": (tracking("http://127.0.0.1:9"), "127.0.0.1:9"),
    "a server with a fault": (server(500), "500|MLflow tracking"),
    "a server that does not answer": (server(0), "MLflow tracking.*[Tt]imed? ?out"),
    "a database that is none": (no_database, "not a database"),
    "a database of another version": (newer_database, "schema|ffffffffffff|revision"),
    "tracking in files": (tracking("./mlruns"), "MLflow tracking"),
    "a name that is taken": (taken_folder, "'s' already exists"),
    "a name that is tracked": (taken_in_mlflow, "'s' is already tracked"),
    "an experiment in the trash": (deleted_experiment, "is deleted"),
}


BY_TASK: dict[str, tuple[Callable[[Site], object], str]] = {
    "an encoder that is nowhere": (config(model__encoder="nobody/nothing"), "nobody/nothing"),
    "half an encoder": (truncated, "task: .*encoder"),
    "weights of another shape": (encoder_setting(hidden_size=32), "task: .*"),
    "weights that are missing": (
        weights(lambda weights: weights.pop("encoder.layer.0.output.dense.weight")),
        "task: .*",
    ),
    "weights that are no numbers": (weights(nan), "task: .*(nan|not finite)"),
    "no tokenizer": (without_tokenizer, "task: .*"),
    "another encoder's tokenizer": (foreign_tokenizer, "task: .*"),
    "more CPUs than any machine has": (set("resources", cpus_per_trial=640), "640 CPUs"),
    "GPUs that are not there": (set("resources", gpus_per_trial=4), "4 GPUs"),
    "a GPU that torch does not see": (set("resources", gpus_per_trial=1), "torch .* sees none"),
    "an hour that is too short": (set("budget", max_hours=1e-6), "used up before the first"),
    "a price of other machines": (
        set("budget", max_usd=5.0, usd_per_hour={"gpu_spot": 0.4}),
        "no price is known for local",
    ),
}
