"""The leaderboard: order, outcomes, and settings that differ."""

from dataclasses import replace

from mlflow_setup.runs.query import ChoiceRecord
from mlflow_setup.schema import Outcome, RunRecord
from search.reports.leaderboard import leaderboard, short_names, varying_params


def run(
    trial: str, overall: float | None, outcome: Outcome | None = Outcome.FINISHED, **params: str
) -> RunRecord:
    metrics = {"train/sentiment/loss": 1.0, "dev/sentiment/accuracy": 0.1}
    if overall is not None:
        metrics |= {"best/dev/overall": overall, "best/dev/sentiment/accuracy": overall / 2}
    settings = {"optim.lr": "0.001", "model.encoder": "minilm", **params}
    tags = {"recipe": "b3", "outcome_reason": "ran 4 epochs", "num_epochs": "4"}
    return RunRecord(f"id-{trial}", trial, "s", "FINISHED", outcome, settings, metrics, tags)


def test_the_best_comes_first_and_trials_without_a_score_last() -> None:
    runs = [
        run("0001", None, Outcome.FAILED),
        run("0002", 0.5),
        run("0003", 0.7, Outcome.PRUNED),
        run("0004", 0.5),
        run("0005", None, None),
    ]
    rows = leaderboard(runs)
    assert [row.trial for row in rows] == ["0003", "0002", "0004", "0001", "0005"]
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    assert [row.overall for row in rows] == [0.7, 0.5, 0.5, None, None]
    outcomes = [row.outcome for row in rows]
    assert outcomes == ["pruned", "finished", "finished", "failed", "running"]
    assert rows[0].metrics == {"dev/sentiment/accuracy": 0.35}
    assert rows[3].metrics == {}
    assert (rows[0].epochs, rows[0].reason) == (4, "ran 4 epochs")


def test_baselines_come_first_without_a_rank_and_add_no_column() -> None:
    linear = run("frozen-linear", 0.9, **{"model.heads": "linear"})
    linear = replace(linear, tags={**linear.tags, "recipe": "frozen-linear"})
    rows = leaderboard([run("0001", 0.5), run("0002", 0.95, **{"optim.lr": "0.01"}), linear])
    assert [(row.trial, row.rank) for row in rows] == [
        ("frozen-linear", None),
        ("0002", 1),
        ("0001", 2),
    ]
    assert [row.params for row in rows] == [{}, {"optim.lr": 0.01}, {"optim.lr": 0.001}]


def test_settings_are_named_by_their_last_part_if_it_is_unique() -> None:
    names = ["model.fcn_size", "optim.lr", "probe.lr", "seed"]
    assert short_names(names) == ["fcn_size", "optim.lr", "probe.lr", "seed"]


def test_only_settings_that_differ_are_shown() -> None:
    differing = {"loss.mnr.enabled": "true", "model.fcn_size": "256", "data.tasks": '["nli"]'}
    runs = [run("0001", 0.5), run("0002", 0.6, **differing)]
    assert varying_params(runs) == ["data.tasks", "loss.mnr.enabled", "model.fcn_size"]
    first, second = leaderboard(runs)
    assert first.params == {
        "data.tasks": ["nli"],
        "loss.mnr.enabled": True,
        "model.fcn_size": 256,
    }
    assert second.params == {}


def test_a_trial_without_settings_differs_in_none() -> None:
    without = replace(run("0003", None, Outcome.FAILED), params={})
    rows = leaderboard([run("0001", 0.5), run("0002", 0.6, **{"optim.lr": "0.01"}), without])
    assert [row.params for row in rows] == [{"optim.lr": 0.01}, {"optim.lr": 0.001}, {}]


def test_an_empty_sweep_has_an_empty_leaderboard() -> None:
    assert leaderboard([]) == []


def test_a_trials_time_size_and_folder() -> None:
    whole = run("0001", 0.5)
    tags = {**whole.tags, "weights_uri": "/s/trials/0001/weights", "notes": '{"num_parameters": 5}'}
    metrics = {**whole.metrics, "used/trial_hours": 0.5, "ms_per_sentence": 2.5}
    known, unknown = leaderboard([replace(whole, tags=tags, metrics=metrics), run("0002", 0.4)])
    assert (known.run_id, known.folder, known.seconds) == ("id-0001", "/s/trials/0001", 1800.0)
    assert (known.num_parameters, known.megabytes) == (5, 20e-6)
    assert (unknown.folder, unknown.seconds, unknown.num_parameters) == (None, None, None)
    assert (known.ms_per_sentence, unknown.ms_per_sentence) == (2.5, None)


def test_the_ensemble_is_the_first_row_with_its_held_out_scores() -> None:
    metrics = {"held_out/selective/overall": 0.6, "held_out/selective/sentiment/accuracy": 0.4}
    metrics |= {"held_out/best_single/overall": 0.55, "cost": 3e6, "num_encoders": 2.0}
    metrics["ms_per_sentence"] = 4.0
    tags = {"member_run_ids": "id-0001,id-0002"}
    runs = [
        replace(one, metrics={**one.metrics, "used/trial_hours": 1.0})
        for one in (run("0001", 0.5), run("0002", 0.7), run("0003", 0.6))
    ]
    row, *others = leaderboard(runs, ChoiceRecord("c", 1.0, {}, metrics, tags))
    assert (row.trial, row.rank, row.overall, row.outcome) == ("ensemble", None, 0.6, "held-out")
    assert row.metrics == {"dev/sentiment/accuracy": 0.4}
    assert (row.seconds, row.num_parameters) == (7200.0, 3_000_000)
    assert row.ms_per_sentence == 4.0
    assert "2 runs" in row.reason
    assert "0.5500" in row.reason
    assert [other.rank for other in others] == [1, 2, 3]
    unknown = leaderboard(runs, ChoiceRecord("c", 1.0, {}, {**metrics, "cost": 2.0}, tags))[0]
    assert unknown.num_parameters is None
