"""S1, S3: no reader of downloaded files executes code, tested with 30 malicious files."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_table import Table
from malicious import MARKER, PAYLOADS, UNSAFE_READERS

from ensemble.bundle.format import ENSEMBLE, FACTS, Bundle
from mlflow_setup.errors import EnsweepError
from mlflow_setup.filesystem.manifest import MANIFEST, write_manifest
from trainable.config.config import Config
from trainable.config.recipe import resolve
from trainable.config.strict_yaml import read_settings
from trainable.config.tasks import PAPER_TASKS
from trainable.data.readers import read_split
from trainable.storage.checkpoint import load_newest
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (name, read)
        for name in PAYLOADS
        for prefix, read in UNSAFE_READERS.items()
        if name.startswith(prefix)
    ],
)
def test_unsafe_readers_execute_the_malicious_files(
    current_folder: Path, name: str, read: Callable[[bytes], object]
) -> None:
    assert len(PAYLOADS) >= 30
    with contextlib.suppress(RuntimeError):  # raised by torch after the code has run
        read(PAYLOADS[name])
    assert (current_folder / MARKER).is_dir()


def as_predictions(folder: Path, content: bytes) -> None:
    (folder / "0001.parquet").write_bytes(content)
    Predictions.read(folder / "0001.parquet")


def as_checkpoint(folder: Path, content: bytes) -> None:
    """With a matching manifest, which an attacker can write as well."""
    generation = folder / "checkpoint" / "00000002"
    generation.mkdir(parents=True)
    (generation / "state.pt").write_bytes(content)
    write_manifest(generation, {"step": 2})
    load_newest(folder / "checkpoint")


def as_manifest(folder: Path, content: bytes) -> None:
    generation = folder / "checkpoint" / "00000002"
    generation.mkdir(parents=True)
    (generation / "state.pt").write_bytes(content)
    (generation / MANIFEST).write_bytes(content)
    assert load_newest(folder / "checkpoint") is None


def as_trial(folder: Path, content: bytes) -> None:
    names = ("config.json", "outcome.json", "epochs/0001.json", "epochs/0001.decision.json")
    for name in (*names, "predictions/0001.parquet", "weights/0001/manifest.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    trial = TrialFolder(folder)
    assert (trial.epochs(), trial.decisions(), trial.outcome()) == ([], [], None)
    with contextlib.suppress(EnsweepError):
        trial.require_weights(1)
    trial.snapshot()


def as_settings(folder: Path, content: bytes) -> None:
    (folder / "settings.yaml").write_bytes(content)
    with contextlib.suppress(EnsweepError):
        settings = read_settings(folder / "settings.yaml")
        assert settings == (json.loads(content) or {})  # only text
    resolve(str(folder / "settings.yaml"), environment={})


def as_data(folder: Path, content: bytes) -> None:
    for name in ("sentiment", "nli"):
        task = PAPER_TASKS[name]
        (folder / task.files["train"]).write_bytes(content)
        examples, defects = read_split(name, task, "train", folder)
        assert not len(examples)
        assert any(defect.severity == "error" for defect in defects)


def as_sweep(folder: Path, content: bytes) -> None:
    from search.config.load import read_sweep

    (folder / "sweep.yaml").write_bytes(content)
    read_sweep(str(folder / "sweep.yaml"))


def as_bundle(folder: Path, content: bytes) -> None:
    """As the contents, with a matching manifest; then as the manifest."""
    (folder / ENSEMBLE).write_bytes(content)
    write_manifest(folder, FACTS)
    with contextlib.suppress(EnsweepError):
        Bundle.load(folder)
    (folder / MANIFEST).write_bytes(content)
    Bundle.load(folder)


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "predictions": as_predictions,
    "checkpoint": as_checkpoint,
    "manifest": as_manifest,
    "trial": as_trial,
    "settings": as_settings,
    "data": as_data,
    "sweep": as_sweep,
    "bundle": as_bundle,
}


ACCEPTED = {
    "manifest": set(PAYLOADS),  # the checkpoint is quarantined
    "data": set(PAYLOADS),  # reported as defects
    "settings": {"json null"},  # an empty settings file
    "sweep": {"json null"},
}


malicious = pytest.mark.promise(
    "S1", "malicious files, given to every reader of downloaded files", "none is executed"
)


@malicious
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("reader", READERS)
def test_s1_no_reader_executes_a_malicious_file(
    current_folder: Path, tmp_path: Path, table: Table, reader: str
) -> None:
    table.played(len(PAYLOADS))
    accepted = set()
    for number, (name, content) in enumerate(PAYLOADS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with contextlib.suppress(EnsweepError):
            READERS[reader](folder, content)
            accepted.add(name)
        assert not (current_folder / MARKER).exists(), name
        assert not (tmp_path / MARKER).exists(), name
    assert accepted == ACCEPTED.get(reader, set())


@malicious
def test_s1_no_loader_of_weights_executes_a_malicious_file(
    current_folder: Path, tmp_path: Path, tiny_encoder: Path, table: Table
) -> None:
    table.played(3 * len(PAYLOADS))
    from trainable.model.encoder import load_pretrained
    from trainable.model.multitask import load_member

    for number, (name, content) in enumerate(PAYLOADS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(EnsweepError):
            load_member(folder, tiny_encoder, Config())
        (folder / "config.json").write_bytes((tiny_encoder / "config.json").read_bytes())
        with pytest.raises(EnsweepError):
            load_pretrained(str(folder), None, 0.1, "pooler")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(EnsweepError):
            load_pretrained(str(folder), None, 0.1, "pooler")
        assert not (current_folder / MARKER).exists(), name


@malicious
@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
)
def test_s1_no_loader_of_other_encoder_files_executes_them(
    current_folder: Path, tmp_path: Path, tiny_encoder: Path, table: Table, file: str
) -> None:
    table.played(len(PAYLOADS))
    from trainable.batches.tokenization import load_tokenizer
    from trainable.model.encoder import build_untrained

    for number, (name, content) in enumerate(PAYLOADS.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_encoder, folder)
        (folder / file).write_bytes(content)
        for load in (lambda path: build_untrained(path, 0.1), load_tokenizer):
            with contextlib.suppress(Exception):  # ours, or of the library that reads the file
                load(folder)
        assert not (current_folder / MARKER).exists(), name


@pytest.mark.promise("S3", "an encoder that brings code of its own", "none is executed")
@pytest.mark.parametrize("model_type", ["bert", "bomb"])
def test_s3_the_code_of_an_encoder_is_not_executed(
    current_folder: Path, tmp_path: Path, tiny_encoder: Path, table: Table, model_type: str
) -> None:
    table.played(3)
    from trainable.batches.tokenization import load_tokenizer
    from trainable.model.encoder import build_untrained, load_pretrained

    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    own = {"AutoConfig": "bomb.Config", "AutoModel": "bomb.Model", "AutoTokenizer": "bomb.Words"}
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings |= {"auto_map": own, "model_type": model_type}
        (folder / name).write_text(json.dumps(settings))
    (folder / "bomb.py").write_bytes(PAYLOADS["python"])
    for load in (
        lambda: load_pretrained(str(folder), None, 0.1, "pooler"),
        lambda: build_untrained(folder, 0.1),
        lambda: load_tokenizer(folder),
    ):
        with contextlib.suppress(EnsweepError):
            load()
        assert not (current_folder / MARKER).exists()
