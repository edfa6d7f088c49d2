"""A choice is exported as a complete bundle, with each member's weights once."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensemble.bundle.format import (
    DENSE,
    ENCODERS,
    ENSEMBLE,
    MAIN,
    MEMBERS,
    WEIGHTS,
    Bundle,
    Contents,
)
from ensemble.candidates.external import with_added
from ensemble.candidates.pool import Pool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.request import Request
from ensemble.choice.result import EnsembleChoice, Method
from ensemble.choice.tracking import Record
from ensemble.export.places import without_places
from ensemble.export.write import chosen_parts, export, write_bundle
from mlflow_setup.errors import ConfigError, EnsweepError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.manifest import MANIFEST
from mlflow_setup.schema import CONFIG_ARTIFACT, TrialRecord
from mlflow_setup.tracking.store import resolve_tracking
from trainable.storage.trial_folder import TrialFolder

TRIALS = ("0001", "0002", "0003")
REQUEST = Request(("s",))


@pytest.fixture
def trials(store: Any, tmp_path: Path) -> dict[str, TrialFolder]:
    """Three runs of two epochs and their folders; the first two have one frozen encoder."""
    folders = {}
    for number, trial in enumerate(TRIALS, start=1):
        folder = TrialFolder(tmp_path / "s" / "trials" / trial)
        uri = str(folder.path / "weights")
        run = store.add_usual(trial, seed=number, tags={"weights_uri": uri})
        artifact = store.root / run.run_id / CONFIG_ARTIFACT
        folder.create(TrialRecord.from_json(artifact.read_text()))
        for epoch in (1, 2):
            content = weights_of(trial, epoch)
            folder.keep_weights(epoch, lambda path, data=content: save_file(data, path / WEIGHTS))
        # the third has an encoder of its own
        settings = b'{"model_type": "bert"}' + b" " * (number == 3)
        folder.keep_encoder(lambda path, data=settings: _write_encoder(path, data))
        folders[trial] = folder
    return folders


def weights_of(trial: str, epoch: int) -> dict[str, Tensor]:
    own = float(trial) + epoch / 10
    encoder = 0.0 if trial in TRIALS[:2] else own
    return {
        "encoder.layer.weight": torch.full((4, 3), encoder),
        "encoder.counts": torch.tensor([3]),
        "heads.sentiment.weight": torch.full((5, 3), own),
    }


def _write_encoder(folder: Path, settings: bytes) -> None:
    (folder / "config.json").write_bytes(settings)
    (folder / "tokenizer.json").write_bytes(b"{}")


def write(output: Path, chosen: tuple[Pool, EnsembleChoice]) -> Contents:
    return write_bundle(output, chosen_parts(REQUEST, Record.of(*chosen), {}))


@pytest.fixture
def chosen(store: Any, trials: dict[str, TrialFolder]) -> tuple[Pool, EnsembleChoice]:
    pool = store.pool()
    return pool, choose(pool, "simple")


def test_the_bundle_has_the_members_weights_and_scores_of_the_choice(
    tmp_path: Path, trials: dict[str, TrialFolder], chosen: tuple[Pool, EnsembleChoice]
) -> None:
    pool, choice = chosen
    contents = write(tmp_path / "out" / "bundle", (pool, choice))
    bundle = Bundle.load(tmp_path / "out" / "bundle")
    assert bundle.contents == contents
    for name, task in choice.tasks.items():
        entry = contents.tasks[name]
        assert entry.task == pool.tasks[name].task
        assert entry.dev_fingerprint == pool.tasks[name].data_fingerprint
        assert [(share.member, share.weight) for share in entry.members] == [
            (member.candidate.key, member.weight) for member in task.selective.members
        ]
        assert entry.scores["best_single"] == task.best_single.scores.to_json()
        assert set(entry.scores) == {"best_single", "simple", "selective"}
    members = choice.candidates(Method.SELECTIVE)
    assert len(members) > 1
    assert set(contents.members) == {candidate.key for candidate in members}
    for candidate in members:
        member = contents.members[candidate.key]
        assert (member.run_id, member.trial, member.epoch, member.sweep) == (
            *(candidate.run_id, candidate.trial, candidate.epoch),
            "s",
        )
        assert member.config == without_places(trials[candidate.trial].trial().config)
        heads = load_file(bundle.weights_dir(candidate.key) / WEIGHTS)
        encoder = load_file(bundle.encoder_dir(candidate.key) / WEIGHTS)
        stored = heads | {f"encoder.{name}": value for name, value in encoder.items()}
        expected = weights_of(candidate.trial, candidate.epoch)
        assert set(stored) == set(expected)
        assert all(torch.equal(stored[name], value) for name, value in expected.items())


def test_each_member_and_each_distinct_encoder_is_written_once(
    tmp_path: Path, chosen: tuple[Pool, EnsembleChoice]
) -> None:
    contents = write(tmp_path / "bundle", chosen)
    found = {path.relative_to(tmp_path / "bundle") for path in (tmp_path / "bundle").rglob("*.*")}
    weights = {path for path in found if path.suffix == ".safetensors"}
    encoders = {member.trial: member.encoder for member in contents.members.values()}
    assert {trial == "0003" for trial in encoders} == {True, False}
    frozen = {encoders[trial] for trial in encoders if trial != "0003"}
    others = {member.encoder for member in contents.members.values() if member.trial == "0003"}
    assert len(frozen) == 1
    assert frozen.isdisjoint(others)
    folders = {
        Path() if name == MAIN else Path(ENCODERS, name)
        for name in (member.encoder for member in contents.members.values())
    }
    assert Path() in folders
    heads = {Path(MEMBERS) / member / WEIGHTS for member in contents.members}
    pooler = {Path(DENSE) / WEIGHTS}
    assert weights == heads | pooler | {folder / WEIGHTS for folder in folders}


def test_the_main_encoder_is_the_one_with_the_most_weight(
    tmp_path: Path, chosen: tuple[Pool, EnsembleChoice]
) -> None:
    contents = write(tmp_path / "bundle", chosen)
    weights: dict[str, float] = {}
    for entry in contents.tasks.values():
        for share in entry.members:
            encoder = contents.members[share.member].encoder
            weights[encoder] = weights.get(encoder, 0) + share.weight
    assert max(weights, key=weights.__getitem__) == MAIN


def test_pictures_are_written_and_shown_in_the_card(
    tmp_path: Path, chosen: tuple[Pool, EnsembleChoice]
) -> None:
    parts = chosen_parts(REQUEST, Record.of(*chosen), {"gain.png": b"\x89PNG"})
    write_bundle(tmp_path / "bundle", parts)
    folder = Bundle.load(tmp_path / "bundle").folder
    assert (folder / "pictures/gain.png").read_bytes() == b"\x89PNG"
    assert "![gain](pictures/gain.png)\n" in (folder / "README.md").read_text()


def test_a_record_is_read_as_it_was_logged(chosen: tuple[Pool, EnsembleChoice]) -> None:
    record = Record.of(*chosen)
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_the_same_choice_gives_the_same_bytes(
    tmp_path: Path, chosen: tuple[Pool, EnsembleChoice]
) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, chosen)
    for name in (ENSEMBLE, MANIFEST, "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_empty_folder_is_filled(tmp_path: Path, chosen: tuple[Pool, EnsembleChoice]) -> None:
    (tmp_path / "bundle").mkdir()
    write(tmp_path / "bundle", chosen)
    Bundle.load(tmp_path / "bundle")


def test_added_predictions_without_a_model_are_refused(
    tmp_path: Path, store: Any, trials: dict[str, TrialFolder]
) -> None:
    scores = zip(store.ids("similarity"), store.labels["similarity"].tolist(), strict=True)
    lines = ["id,score", *(f"{row_id},{score}" for row_id, score in scores)]
    (tmp_path / "best.csv").write_text("\n".join(lines))
    pool = with_added(store.pool(), [str(tmp_path / "best.csv")])
    with pytest.raises(ConfigError, match=r"without a model cannot be exported: best\.csv\n"):
        chosen_parts(REQUEST, Record.of(pool, choose(pool, "single")), {})


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_existing_files_are_not_replaced(
    tmp_path: Path, chosen: tuple[Pool, EnsembleChoice], kind: str
) -> None:
    output = tmp_path / "bundle"
    kept = output / "kept" if kind == "folder" else output
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        write(output, chosen)
    with pytest.raises(ConfigError, match="is there already"):  # before the runs are read
        export(resolve_tracking(tmp_path / "none"), REQUEST, tmp_path / "cache", output)
    assert kept.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_reported(
    tmp_path: Path, chosen: tuple[Pool, EnsembleChoice]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"bundle: .*file is no folder"):
        write(tmp_path / "file" / "bundle", chosen)


def _change(folder: TrialFolder) -> None:
    for epoch in (1, 2):
        path = folder.weights_dir(epoch) / WEIGHTS
        path.write_bytes(path.read_bytes()[:-1] + b"x")


def _drop(folder: TrialFolder) -> None:
    for epoch in (1, 2):
        folder.drop_weights(epoch)


def _other_trial(folder: TrialFolder) -> None:
    folder.relocate(dataclasses.replace(folder.trial(), trial=f"x{folder.trial().trial}"))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_change, IntegrityError, "weights are damaged: changed since it was written"),
        (_drop, IntegrityError, "weights are damaged: manifest.json is missing"),
        (_other_trial, IntegrityError, "holds trial 'x0001' of sweep 's', not '0001'"),
        (
            lambda folder: folder.encoder_dir.rename(folder.path / "moved"),
            IntegrityError,
            "holds no encoder configuration",
        ),
        (
            lambda folder: folder.path.rename(folder.path.with_name(f"gone-{folder.path.name}")),
            NothingUsableError,
            "weights cannot be reached from here",
        ),
    ],
)
def test_no_bundle_is_written_when_a_member_is_unusable(
    tmp_path: Path,
    trials: dict[str, TrialFolder],
    chosen: tuple[Pool, EnsembleChoice],
    damage: Callable[[TrialFolder], object],
    error: type[EnsweepError],
    message: str,
) -> None:
    for folder in trials.values():
        damage(folder)
    with pytest.raises(error, match=message):
        write(tmp_path / "out" / "bundle", chosen)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_sweep_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError, match="no trial of a sweep 'none' is tracked"):
        export(
            resolve_tracking(tmp_path), Request(("none",)), tmp_path / "cache", tmp_path / "bundle"
        )
    assert not (tmp_path / "bundle").exists()
