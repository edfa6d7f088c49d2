"""Faults in a sweep, each with a pattern of the error that `ensweep plan` must print."""

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
from planned_sweep import PlannedSweep
from safetensors.torch import load_file, save_file

Fault = Callable[[PlannedSweep], object]


def config(**given: Any) -> Fault:
    return lambda sweep: sweep.content["config"].update(
        {key.replace("__", "."): value for key, value in given.items()}
    )


def space(key: str, **parameter: Any) -> Fault:
    return lambda sweep: sweep.content["space"].update({key: parameter})


def section(name: str, **given: Any) -> Fault:
    return lambda sweep: sweep.content.setdefault(name, {}).update(given)


def duplicate_key(sweep: PlannedSweep) -> None:
    sweep.text = yaml.safe_dump(sweep.content) + "recipe: b2\n"


def cell(row: int, column: int, value: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        cells = lines[row].split("\t")
        cells[column] = value
        lines[row] = "\t".join(cells)

    return change


def weights(change: Callable[[dict[str, Any]], object]) -> Fault:
    def plant(sweep: PlannedSweep) -> None:
        path = sweep.encoder / "model.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return plant


def nan(weights: dict[str, Any]) -> None:
    weights["embeddings.word_embeddings.weight"][:] = float("nan")


def truncated(sweep: PlannedSweep) -> None:
    path = sweep.encoder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def encoder_setting(**given: Any) -> Fault:
    def plant(sweep: PlannedSweep) -> None:
        path = sweep.encoder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | given))

    return plant


def without_tokenizer(sweep: PlannedSweep) -> None:
    for path in sweep.encoder.glob("*token*"):
        path.unlink()


def foreign_tokenizer(sweep: PlannedSweep) -> None:
    """A tokenizer whose ids exceed the encoder's embeddings."""
    path = sweep.encoder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = {w: i + 500 * (i > 4) for w, i in words.items()}
    path.write_text(json.dumps(content))


def storage(place: str) -> Fault:
    def plant(sweep: PlannedSweep) -> None:
        if place == "file":
            sweep.storage.write_text("")
        else:
            sweep.storage = Path(place)
            sweep.tracking = f"sqlite:///{sweep.folder}/mlflow.db"

    return plant


def name_in_storage(sweep: PlannedSweep) -> None:
    (sweep.storage / "s").mkdir(parents=True)


def name_in_mlflow(sweep: PlannedSweep) -> None:
    from mlflow_setup.runs.sweep_run import Mirror
    from mlflow_setup.tracking.store import resolve_tracking

    Mirror(resolve_tracking(sweep.storage), "s").start({}, {}, {})


def deleted_experiment(sweep: PlannedSweep) -> None:
    from mlflow_setup.tracking.store import resolve_tracking

    tracking = resolve_tracking(sweep.storage)
    tracking.check()
    tracking.client.delete_experiment(tracking.experiment_id)


def not_a_database(sweep: PlannedSweep) -> None:
    sweep.storage.mkdir()
    (sweep.storage / "mlflow.db").write_bytes(b"not a database" * 300)


def newer_database(sweep: PlannedSweep) -> None:
    from mlflow_setup.tracking.store import resolve_tracking

    other = sweep.folder / "other"
    resolve_tracking(other).check()
    with sqlite3.connect(other / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    sweep.storage.mkdir()
    shutil.copy(other / "mlflow.db", sweep.storage)


def server(status: int) -> Fault:
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

    def plant(sweep: PlannedSweep) -> None:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sweep.closing.append(server.shutdown)
        sweep.tracking = f"http://127.0.0.1:{server.server_port}"

    return plant


def tracking(uri: str) -> Fault:
    return lambda sweep: setattr(sweep, "tracking", uri)


def teacher(name: str) -> Fault:
    return config(distill__enabled=True, distill__teacher=name)


FOUND_BY_DRIVER: dict[str, tuple[Fault, str]] = {
    "an unknown setting": (config(optim__lrr=1), r"optim\.lrr"),
    "an unknown key of the search space": (
        space("optim.rate", type="float", low=1, high=2),
        "optim.rate",
    ),
    "a lower bound above the upper bound": (
        space("optim.lr", type="float", low=1e-3, high=1e-4),
        "low must be below",
    ),
    "a logarithmic scale from 0": (
        space("optim.lr", type="float", low=0, high=1e-4, log=True),
        "low must be above 0",
    ),
    "an invalid choice": (
        space("batching.strategy", type="categorical", choices=["even", "evn"]),
        r"batching\.strategy.*evn",
    ),
    "an upper bound out of range": (
        space("model.head_dropout", type="float", low=0.1, high=1.5),
        r"model\.head_dropout",
    ),
    "an unknown recipe": (lambda sweep: sweep.content.update(recipe="b33"), "b33"),
    "a first trial outside the search space": (
        lambda sweep: sweep.content["first_trials"].append({"recipe": "b2", "optim.lr": 0.5}),
        "outside the space",
    ),
    "a condition on an unknown key": (
        space("model.head_dropout", type="float", low=0.0, high=0.4, when={"model.late": True}),
        r"model\.late",
    ),
    "a setting that is fixed and searched": (config(optim__lr=1e-4), "both fixed"),
    "a duplicate key": (duplicate_key, "twice|duplicate"),
    "a cost limit without a price": (section("budget", max_usd=5.0), "price"),
    "no trials": (section("search", num_samples=0), "num_samples"),
    "incompatible settings": (
        config(train__stages=["finetune", "swa"], train__early_stopping_epochs=2),
        "early_stopping",
    ),
    "a missing data folder": (config(data__dir="/nowhere/at/all"), "/nowhere/at/all"),
    "a missing data file": (
        lambda sweep: (sweep.data / "quora-train.csv").unlink(),
        r"quora-train\.csv",
    ),
    "a label out of range": (
        lambda sweep: sweep.edit("ids-sst-dev.csv", cell(3, -1, "7")),
        r"ids-sst-dev\.csv.*7",
    ),
    "a duplicate id": (
        lambda sweep: sweep.edit("sts-train.csv", lambda lines: lines.append(lines[1])),
        r"sts-train\.csv",
    ),
    "a missing column": (
        lambda sweep: sweep.edit("quora-dev.csv", cell(0, -1, "is_same")),
        "is_duplicate",
    ),
    "a data file without rows": (
        lambda sweep: sweep.edit("sts-dev.csv", lambda lines: lines.__delitem__(slice(1, None))),
        r"sts-dev\.csv|no sound dev row",
    ),
    "a data file in UTF-16": (
        lambda sweep: (sweep.data / "sts-train.csv").write_bytes(
            (sweep.data / "sts-train.csv").read_text().encode("utf-16")
        ),
        r"sts-train\.csv",
    ),
    "a row without a label": (
        lambda sweep: sweep.edit("quora-train.csv", cell(5, -1, "")),
        r"quora-train\.csv",
    ),
    "a teacher run that does not exist": (teacher("run:" + "0" * 32), "0{32}"),
    "a teacher bundle that does not exist": (teacher("bundle:/nowhere/bundle"), "/nowhere/bundle"),
    "a storage folder that is a file": (storage("file"), "storage|runs"),
    "a storage folder that cannot be written": (storage("/proc/ensweep"), "storage /proc/ensweep"),
    "a tracking server that is not running": (tracking("http://127.0.0.1:9"), "127.0.0.1:9"),
    "a tracking server that fails": (server(500), "500|MLflow tracking"),
    "a tracking server that does not respond": (server(0), "MLflow tracking.*[Tt]imed? ?out"),
    "a file that is not a database": (not_a_database, "not a database"),
    "a database of a newer version": (newer_database, "schema|ffffffffffff|revision"),
    "a tracking store in files": (tracking("./mlruns"), "MLflow tracking"),
    "a name that is in use in the storage folder": (name_in_storage, "'s' already exists"),
    "a name that is in use in MLflow": (name_in_mlflow, "'s' is already tracked"),
    "a deleted experiment": (deleted_experiment, "is deleted"),
}


FOUND_BY_TASK: dict[str, tuple[Fault, str]] = {
    "an encoder that does not exist": (config(model__encoder="nobody/nothing"), "nobody/nothing"),
    "truncated weights": (truncated, "task: .*encoder"),
    "weights of another shape": (encoder_setting(hidden_size=32), "task: .*"),
    "missing weights": (
        weights(lambda weights: weights.pop("encoder.layer.0.output.dense.weight")),
        "task: .*",
    ),
    "weights that are NaN": (weights(nan), "task: .*(nan|not finite)"),
    "no tokenizer": (without_tokenizer, "task: .*"),
    "another encoder's tokenizer": (foreign_tokenizer, "task: .*"),
    "more CPUs than any node has": (section("resources", cpus_per_trial=640), "640 CPUs"),
    "more GPUs than any node has": (section("resources", gpus_per_trial=4), "4 GPUs"),
    "a GPU that torch does not see": (section("resources", gpus_per_trial=1), "torch .* sees none"),
    "a time limit that is too short": (
        section("budget", max_hours=1e-6),
        "used up before the first",
    ),
    "a price of other node types": (
        section("budget", max_usd=5.0, usd_per_hour={"gpu_spot": 0.4}),
        "no price is known for local",
    ),
}
