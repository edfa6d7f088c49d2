"""A soup: a trial with the average weights of runs that have the same initial weights."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from ensemble.candidates.lineage import initialisation_of
from ensemble.candidates.pool import load_pool
from ensemble.soup import scoring
from ensemble.soup.averaging import average_weights, greedy_soup
from ensemble.soup.trial import Soup, make_soup, runs_with_common_start
from ensweep.cli.app import app
from mlflow_setup.errors import DataError, IntegrityError, NothingUsableError
from mlflow_setup.runs.query import download, find_trials
from mlflow_setup.runs.sweep_run import Mirror
from mlflow_setup.schema import OVERALL, Identity, TrialRecord
from mlflow_setup.tracking.store import Tracking, resolve_tracking
from trainable.config.parse import from_flat
from trainable.config.recipe import resolve
from trainable.evaluation.metrics import task_metric
from trainable.model.weight_files import read_weights
from trainable.storage.predictions import Predictions, dev_train_mask
from trainable.storage.trial_folder import TrialFolder
from trainable.training.train import train

RATES = (1e-3, 3e-3)


@pytest.fixture(scope="module")
def tracking(
    tiny_encoder: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Tracking:
    """The sweep `rates`: two runs that differ in their learning rate."""
    storage = tmp_path_factory.mktemp("runs")
    tracking = resolve_tracking(storage, f"sqlite:///{storage / 'mlflow.db'}")
    mirror = Mirror(tracking, "rates")
    mirror.start({}, {})
    for number, rate in enumerate(RATES):
        settings = [
            *(f"data.dir={tiny_data}", f"model.encoder={tiny_encoder}", f"optim.lr={rate}"),
            *("train.num_epochs=1", "train.precision=fp32", "model.fcn_size=8"),
        ]
        resolved = resolve("baseline", settings, {})
        folder, name = storage / "rates" / "trials" / f"000{number}", f"000{number}"
        train(resolved.config, folder, identity=Identity(name, "rates", "baseline", {}))
        mirror.project(TrialFolder(folder).snapshot())
    mirror.finish("FINISHED")
    return tracking


@pytest.fixture(scope="module")
def uniform(tracking: Tracking, tiny_data: Path) -> Soup:
    return make_soup(tracking, "rates", tiny_data, greedy=False)


def folders(tracking: Tracking) -> list[TrialFolder]:
    runs = [run for run in find_trials(tracking, "rates") if "soup" not in run.trial]
    return [TrialFolder(Path(run.tags["weights_uri"]).parent) for run in runs]


def test_a_uniform_soup_is_a_trial_of_the_sweep(
    tracking: Tracking, uniform: Soup, tiny_data: Path
) -> None:
    assert sorted(uniform.ingredients) == ["0000@1", "0001@1"]
    assert (uniform.num_sharing, uniform.folder.parent.name) == (2, "soups")
    trial = TrialFolder(uniform.folder)
    states = [read_weights(each.weights_dir(1)) for each in folders(tracking)]
    stored = read_weights(trial.require_weights(1))
    for name, value in stored.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)
    runs = {run.trial: run for run in find_trials(tracking, "rates")}
    run = runs[uniform.trial]
    assert (run.run_id, run.outcome, run.status) == (uniform.run_id, "finished", "FINISHED")
    assert "uniform soup, chosen on dev-train, of 000" in run.tags["outcome_reason"]
    (epoch,) = trial.epochs()
    assert run.metrics[OVERALL] == epoch.metrics[OVERALL]
    again = make_soup(tracking, "rates", tiny_data, greedy=False)
    assert dataclasses.replace(again, tasks=uniform.tasks) == uniform
    assert len(find_trials(tracking, "rates")) == 3


def test_a_soup_is_scored_on_rows_outside_dev_train(tracking: Tracking, uniform: Soup) -> None:
    best = max(folders(tracking), key=lambda trial: trial.epochs()[0].dev_train[OVERALL])
    for task, scores in uniform.tasks.items():
        for folder, score in ((uniform.folder, scores.soup), (best.path, scores.single)):
            outputs = Predictions.read(TrialFolder(folder).predictions_path(1), task)
            held_out = ~dev_train_mask(outputs.ids)
            config = from_flat(best.trial().config)
            assert outputs.labels is not None
            expected = task_metric(
                config.task_records()[task], outputs.outputs[held_out], outputs.labels[held_out]
            )
            assert score == pytest.approx(expected[0])
        assert scores.gain.value == pytest.approx(scores.soup - scores.single)


def test_a_soup_is_a_candidate_but_not_an_ingredient(
    tracking: Tracking, uniform: Soup, tmp_path: Path
) -> None:
    runs = find_trials(tracking, "rates")
    pool = load_pool(runs, lambda run_id, path: download(tracking, run_id, path, tmp_path))
    assert not pool.rejected
    assert uniform.trial in {candidate.trial for candidate in pool.candidates}
    assert len(runs_with_common_start(runs, "rates")) == 2 < len(runs)


def test_greedy_selection_uses_only_dev_train(
    tracking: Tracking, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    encode = scoring.encode

    def spy(examples: Any, *rest: Any) -> Any:
        seen.append(examples.ids)
        return encode(examples, *rest)

    monkeypatch.setattr(scoring, "encode", spy)
    chosen: list[list[str]] = []

    def take_all(candidates: Sequence[Any], score: Any) -> list[Any]:
        score(candidates)
        chosen.append([each.label for each in candidates])
        return list(candidates)

    monkeypatch.setattr("ensemble.soup.trial.greedy_soup", take_all)
    found = make_soup(tracking, "rates", tiny_data, greedy=True)
    assert list(found.ingredients) == chosen[0]
    assert [dev_train_mask(ids).all() for ids in seen] == [True] * 3 + [False] * 3
    assert found.trial.startswith("soup-greedy-")
    monkeypatch.setattr("ensemble.soup.trial.greedy_soup", lambda candidates, score: candidates[:1])
    with pytest.raises(NothingUsableError, match=r"no run improves 000.@1 on dev-train"):
        make_soup(tracking, "rates", tiny_data, greedy=True)


def test_other_data_is_refused(tracking: Tracking, tmp_path: Path, tiny_data: Path) -> None:
    for path in tiny_data.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("\tgood", "\tbad"))
    with pytest.raises(DataError, match=r"the dev examples are not those that 000. was scored on"):
        make_soup(tracking, "rates", tmp_path, greedy=False)


def test_runs_with_other_initial_weights_are_not_averaged(tiny_runs: Path, tiny_data: Path) -> None:
    tracking = resolve_tracking(tiny_runs, f"sqlite:///{tiny_runs / 'mlflow.db'}")
    with pytest.raises(NothingUsableError, match="no two runs whose weights can be reached"):
        make_soup(tracking, "tiny", tiny_data, greedy=False)


def test_the_command(tracking: Tracking, tiny_data: Path) -> None:
    options = ["--data-dir", f"file://{tiny_data}", "--tracking-uri", tracking.uri]
    command = ["soup", "rates", *options]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "2 of 2 runs with the same initial weights" in shown.stdout
    assert "dev-dev is held out" in shown.stdout
    content = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert content["tasks"]["similarity"]["gain"].keys() == {"value", "low", "high"}


@pytest.mark.parametrize(
    ("change", "is_shared"),
    [
        ({"optim.lr": 5e-5}, True),
        ({"model.head_dropout": 0.0, "train.num_epochs": 3}, True),
        ({"seed": 1}, False),  # initialises other heads
        ({"model.encoder": "minilm"}, False),
        ({"model.revision": "v2"}, False),
        ({"model.pooling": "cls"}, False),
        ({"model.shared_fcn": True}, False),
        ({"data.tasks": ["similarity"]}, False),
        ({"pretrain.enabled": True}, False),
        ({"distill.enabled": True, "distill.place": "head"}, False),
    ],
)
def test_settings_that_change_the_initial_weights(change: dict[str, Any], is_shared: bool) -> None:
    one, other = (
        TrialRecord(
            trial="a",
            sweep="s",
            recipe="b3",
            config=from_flat(settings).flat(),
            origin={},
            seed=0,
            data_fingerprint="d",
            git_revision=None,
            start_time=0.0,
        )
        for settings in ({}, change)
    )
    assert (initialisation_of(one) == initialisation_of(other)) == is_shared
    moved = dataclasses.replace(one, encoder_revision="f" * 40)  # the hub has another revision now
    assert initialisation_of(one) != initialisation_of(moved)


def test_average_weights(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    states = [
        {"w": torch.tensor(draw.standard_normal((3, 2)), dtype=torch.float32), "n": torch.tensor(7)}
        for _ in range(3)
    ]
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, state in zip(paths, states, strict=True):
        save_file(state, path)
    found = average_weights(paths)
    expected = np.mean([state["w"].double().numpy() for state in states], axis=0)
    np.testing.assert_allclose(found["w"].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert found["n"] == 7
    for other in ({"w": states[0]["w"]}, {**states[0], "n": torch.tensor(8)}):
        save_file(other, paths[1])
        with pytest.raises(IntegrityError, match=r"1\.safetensors: "):
            average_weights(paths)
    paths[1].write_bytes(b"\x80\x04N.")
    with pytest.raises(IntegrityError, match="weights cannot be read"):
        average_weights(paths)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ({"a": 1.0, "ab": 2.0, "abc": 3.0}, "abc"),
        ({"a": 1.0, "ab": 0.5, "ac": 1.0}, "ac"),  # an equal score is enough
        ({"a": 1.0, "ab": 0.5, "ac": 0.9}, "a"),
    ],
)
def test_greedy_keeps_ingredients_that_do_not_lower_the_score(
    scores: dict[str, float], kept: str
) -> None:
    assert "".join(greedy_soup("abc", lambda some: scores["".join(some)])) == kept
