"""The leaderboard: order, outcomes, and what the trials differ in."""

from dataclasses import replace

from mlflow_setup.schema import Outcome, RunRecord
from search.reports.leaderboard import leaderboard, varying_params


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


def test_the_baselines_come_first_without_a_rank_and_make_no_column() -> None:
    linear = run("frozen-linear", 0.9, **{"model.heads": "linear"})
    linear = replace(linear, tags={**linear.tags, "recipe": "frozen-linear"})
    rows = leaderboard([run("0001", 0.5), run("0002", 0.95, **{"optim.lr": "0.01"}), linear])
    assert [(row.trial, row.rank) for row in rows] == [
        ("frozen-linear", None),
        ("0002", 1),
        ("0001", 2),
    ]
    assert [row.params for row in rows] == [{}, {"optim.lr": 0.01}, {"optim.lr": 0.001}]


def test_only_what_differs_is_shown_as_values() -> None:
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


def test_a_trial_that_failed_before_it_had_settings_differs_in_none() -> None:
    without = replace(run("0003", None, Outcome.FAILED), params={})
    rows = leaderboard([run("0001", 0.5), run("0002", 0.6, **{"optim.lr": "0.01"}), without])
    assert [row.params for row in rows] == [{"optim.lr": 0.01}, {"optim.lr": 0.001}, {}]


def test_an_empty_sweep_has_an_empty_leaderboard() -> None:
    assert leaderboard([]) == []
