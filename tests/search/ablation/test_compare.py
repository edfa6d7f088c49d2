"""The study's numbers: means, spreads, paired differences, intervals, and what is refused."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlflow_setup.errors import IntegrityError, NothingUsableError
from mlflow_setup.schema import OVERALL, EpochRecord, Outcome, OutcomeRecord, TrialRecord
from search.ablation.compare import Line, evaluate
from search.ablation.curves import Curve, scaled
from search.ablation.row_results import Row
from trainable.config.parse import from_flat
from trainable.config.tasks import PAPER_TASKS, Kind
from trainable.storage.predictions import Predictions
from trainable.storage.trial_folder import TrialFolder

TASKS = ("sentiment", "paraphrase", "similarity")
LABELS = {
    "sentiment": np.array([0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 2.0]),
    "paraphrase": np.array([1.0, 0.0, 1.0, 0.0]),
    "similarity": np.array([0.0, 1.0, 2.0, 3.0, 5.0]),
}
Outputs = Mapping[str, Sequence[float] | NDArray[Any]]


class Trials:
    """Writes finished trials with chosen dev outputs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.labels = dict(LABELS)

    def add(
        self,
        name: str,
        outputs: Outputs,
        seed: int = 0,
        overall: Sequence[float] = (0.5,),
        outcome: Outcome | None = Outcome.FINISHED,
        settings: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        """A trial with these outputs at its best epoch, and all wrong ones at the others.

        Args:
            overall: `dev/overall` by epoch.
            settings: of its configuration, beside tasks and seed.
            changes: of the prediction files.
        """
        trial = TrialFolder(self.root / name)
        given = {"data.tasks": list(outputs), "seed": seed, **(settings or {})}
        config = from_flat(given).flat()
        trial.create(TrialRecord(name, "s", "b3", config, {}, seed, "whole", None, 0.0))
        best = int(np.argmax(overall)) + 1
        for epoch, score in enumerate(overall, start=1):
            metrics, parts = {OVERALL: score}, []
            for task, values in outputs.items():
                metrics |= {
                    f"train/{task}/loss": 2.0 / epoch + seed,
                    f"dev/{task}/loss": 1.0 / epoch + seed,
                    f"dev/{task}/{PAPER_TASKS[task].metric}": score + seed,
                }
                chosen = values if epoch == best else -self.raw(task, values)
                parts.append(self.predictions(task, chosen, **changes))
            trial.write_predictions(epoch, parts)
            trial.write_epoch(EpochRecord(epoch, metrics, {}, 1.0, 0.0))
        if outcome is not None:
            trial.write_outcome(OutcomeRecord(outcome, "said so", len(overall), 0.0))
        return trial.path

    def predictions(
        self, task: str, values: Sequence[float] | NDArray[Any], **changes: Any
    ) -> Predictions:
        labels = self.labels[task]
        content = Predictions(
            task_name=task,
            kind=PAPER_TASKS[task].kind,
            split="dev",
            ids=tuple(f"{task[:2]}-{row}" for row in range(len(labels))),
            outputs=self.raw(task, values),
            labels=labels,
            data_fingerprint=f"{task}-data",
            tokenizer="tok",
        )
        return replace(content, **changes)

    def raw(self, task: str, values: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
        """Classes become logits; logits and scores stay as they are."""
        array = np.asarray(values, np.float32)
        if PAPER_TASKS[task].kind is Kind.CLASSIFICATION and array.ndim == 1:
            return np.eye(5, dtype=np.float32)[array.astype(int)]
        return array


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


def right(task: str, num_wrong: int = 0) -> NDArray[np.float64]:
    """Outputs that are right but on the first rows: scores, logits or classes."""
    values = LABELS[task].copy()
    if task == "paraphrase":
        values = 2 * values - 1
        values[:num_wrong] *= -1
    elif task == "sentiment":
        values[:num_wrong] = (values[:num_wrong] + 1) % 5
    return values


def usual(sentiment: int = 0, paraphrase: int = 0) -> dict[str, NDArray[np.float64]]:
    """Outputs of all three tasks by number of wrong rows."""
    counts = {"sentiment": sentiment, "paraphrase": paraphrase, "similarity": 0}
    return {task: right(task, count) for task, count in counts.items()}


def by_label(lines: Sequence[Line], label: str) -> Line:
    return next(line for line in lines if line.label == label)


# --- means, spreads and differences, by hand ---


def test_means_spreads_and_paired_differences_are_those_computed_by_hand(trials: Trials) -> None:
    # Accuracy of sentiment: base 6/8 and 4/8, row 8/8 and 5/8; paraphrase: 2/4 twice, 3/4 twice.
    base = [trials.add("b0", usual(2, 2)), trials.add("b1", usual(4, 2), seed=1)]
    row = [trials.add("r0", usual(0, 1)), trials.add("r1", usual(3, 1), seed=1)]
    study = evaluate([Row("B3", "b3", tuple(base)), Row("B3 + X", "b3-x", tuple(row))])
    assert study.names == (*TASKS, "dev/overall")
    first, second = study.lines
    assert first.differences is None
    assert (first.mean("sentiment"), second.mean("sentiment")) == (0.625, 0.8125)
    assert first.spread("sentiment") == pytest.approx(0.25 / np.sqrt(2))
    assert second.spread("paraphrase") == 0.0
    assert first.mean("similarity") == pytest.approx(1.0)
    # overall: (sentiment + paraphrase + (1 + 1) / 2) / 3
    assert first.mean(OVERALL) == pytest.approx((0.625 + 0.5 + 1) / 3)
    assert second.mean(OVERALL) == pytest.approx((0.8125 + 0.75 + 1) / 3)
    assert second.differences is not None
    found = second.differences["sentiment"]
    assert found.value == pytest.approx((0.25 + 0.125) / 2)
    assert found.spread == pytest.approx(0.125 / np.sqrt(2))  # of 0.25 and 0.125
    whole = second.differences[OVERALL]
    assert whole.value == pytest.approx((0.1875 + 0.25) / 3)
    assert whole.spread == pytest.approx(0.125 / np.sqrt(2) / 3)
    assert [run.seed for run in second.runs] == [0, 1]


def test_a_correlation_counts_half_in_the_overall_difference(trials: Trials) -> None:
    worse = {**usual(), "similarity": np.array([0.0, 2.0, 1.0, 5.0, 3.0])}
    r = np.corrcoef(worse["similarity"], LABELS["similarity"])[0, 1]
    rows = [
        Row("base", "b3", (trials.add("b", usual()),)),
        Row("row", "x", (trials.add("r", worse),)),
    ]
    differences = evaluate(rows).lines[1].differences
    assert differences is not None
    assert differences["similarity"].value == pytest.approx(r - 1)
    assert differences[OVERALL].value == pytest.approx((r - 1) / 2 / 3)


def test_one_seed_has_no_spread(trials: Trials) -> None:
    rows = [
        Row("base", "b3", (trials.add("b", usual()),)),
        Row("row", "x", (trials.add("r", usual(1)),)),
    ]
    study = evaluate(rows)
    assert study.lines[1].spread("sentiment") is None
    assert study.lines[1].differences is not None
    assert study.lines[1].differences["sentiment"].spread is None


@pytest.mark.parametrize(
    ("overall", "epoch"), [((0.3, 0.6, 0.5), 2), ((0.3, 0.6, 0.6), 2), ((0.3, 0.4, 0.5), 3)]
)
def test_a_run_is_judged_at_its_best_overall_epoch_the_earliest_of_equals(
    trials: Trials, overall: tuple[float, ...], epoch: int
) -> None:
    folder = trials.add("b", {"sentiment": right("sentiment")}, overall=overall)
    (line,) = evaluate([Row("base", "b3", (folder,))]).lines
    assert line.runs[0].epoch == epoch
    assert line.mean("sentiment") == 1.0  # the other epochs are all wrong


@pytest.mark.parametrize(
    ("stages", "lengths", "epoch"),
    [
        (["finetune", "swa"], {"train.num_epochs": 2, "swa.num_epochs": 2}, 4),
        (["probe", "finetune"], {"probe.num_epochs": 3, "train.num_epochs": 1}, 4),
        (["finetune"], {"train.num_epochs": 4}, 2),
    ],
)
def test_a_stages_row_is_judged_by_that_stages_own_epochs(
    trials: Trials, stages: list[str], lengths: dict[str, int], epoch: int
) -> None:
    """Or it could not lose: the epochs before the last stage are those of the row without it."""
    settings = {"train.stages": stages, **lengths}
    row = trials.add("r", usual(), overall=(0.5, 0.9, 0.2, 0.3), settings=settings)
    (line,) = evaluate([Row("row", "b3-swa", (row,))], num_replicates=10).lines
    assert line.runs[0].epoch == epoch


def test_a_row_that_shares_the_bases_trials_differs_by_exactly_nothing(trials: Trials) -> None:
    folders = (trials.add("b0", usual(2)), trials.add("b1", usual(3), seed=1))
    study = evaluate([Row("base", "b3", folders), Row("again", "b3", folders)])
    for difference in (study.lines[1].differences or {}).values():
        assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
        assert (difference.spread, difference.is_clear) == (0.0, False)


def test_a_row_is_compared_with_the_base_it_names_or_with_the_best_of_several(
    trials: Trials,
) -> None:
    rows = [
        Row("first", "b3", (trials.add("b", usual(0)),)),
        Row("other", "b1", (trials.add("o", usual(4)),)),
        Row("better", "b2", (trials.add("p", usual(3)),)),
        Row("row", "x", (trials.add("r", usual(2)),), bases=("other",)),
        Row("both", "", members=dict.fromkeys(TASKS, ("other", "better")), bases=("better",)),
        Row("best of", "y", (trials.add("s", usual(2)),), bases=("other", "better")),
    ]
    study = evaluate(rows, num_replicates=10)
    assert [line.base for line in study.lines] == [
        *(None, "first", "first", "other", "better", "better"),
    ]
    found = [(line.differences or {})["sentiment"].value for line in study.lines[1:]]
    assert found[:3] == pytest.approx([-0.5, -0.375, 0.25])
    assert found[4] == pytest.approx(0.125)


def test_a_row_whose_base_has_no_numbers_has_none(trials: Trials) -> None:
    rows = [
        Row("first", "b3", (trials.add("b", usual(0)),)),
        Row("broken", "b1", (trials.add("o", usual(4), outcome=Outcome.FAILED),)),
        Row("row", "x", (trials.add("r", usual(2)),), bases=("broken",)),
    ]
    study = evaluate(rows, num_replicates=10)
    assert by_label(study.lines, "row").problem == "its base broken has no numbers"


@pytest.mark.parametrize(
    ("settings", "num_seeds"),
    [
        ({}, 4),
        ({"distill.enabled": True}, 4),  # each seed has its own
        ({"distill.enabled": True, "distill.num_teachers": 2}, 1),  # 0 and 1, 1 and 2, ...
        ({"distill.enabled": True, "distill.teacher": "bundle:b"}, 1),
    ],
)
def test_seeds_that_share_teachers_are_not_independent(
    trials: Trials, settings: dict[str, Any], num_seeds: int
) -> None:
    base = tuple(trials.add(f"b{n}", usual(4, 2), seed=n) for n in range(4))
    row = tuple(trials.add(f"r{n}", usual(0, 0), seed=n, settings=settings) for n in range(4))
    rows = [
        Row("base", "b3", base),
        Row("row", "x", row),
        Row("mean", "", members=dict.fromkeys(TASKS, ("base", "row"))),
    ]
    for line in evaluate(rows, num_replicates=10).lines[1:]:
        found = (line.differences or {})["paraphrase"]
        assert found.num_seeds == num_seeds
        assert (found.p_value is None) is (num_seeds < 3)


def test_identical_predictions_of_another_run_have_the_interval_0_to_0(trials: Trials) -> None:
    rows = [
        Row("base", "b3", (trials.add("b", usual(2)),)),
        Row("same", "x", (trials.add("r", usual(2)),)),
    ]
    differences = evaluate(rows).lines[1].differences
    assert differences is not None
    assert {(d.low, d.high) for d in differences.values()} == {(0.0, 0.0)}


def test_the_same_study_gives_the_same_numbers(trials: Trials) -> None:
    rows = [
        Row("base", "b3", (trials.add("b", usual(2)),)),
        Row("row", "x", (trials.add("r", usual(4, 1)),)),
    ]
    assert evaluate(rows).to_json() == evaluate(rows).to_json()


# --- rows that cannot be compared in full ---


def test_a_single_task_row_has_a_task_difference_and_no_overall(trials: Trials) -> None:
    only = {"sentiment": right("sentiment", 1)}
    rows = [
        Row("base", "b3", (trials.add("b", usual(3)),)),
        Row("sentiment only", "b3-sentiment-only", (trials.add("r", only),)),
    ]
    line = evaluate(rows).lines[1]
    assert line.mean(OVERALL) is None
    assert line.mean("paraphrase") is None
    assert line.differences is not None
    assert list(line.differences) == ["sentiment"]
    assert line.differences["sentiment"].value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.FAILED, "failed: said so"),
        (Outcome.DIVERGED, "diverged: said so"),
        (Outcome.STOPPED, "stopped: said so"),
        (None, "has not ended"),
    ],
)
def test_a_row_with_a_trial_that_did_not_finish_is_listed_with_its_reason(
    trials: Trials, outcome: Outcome | None, reason: str
) -> None:
    one = {"sentiment": right("sentiment")}
    good = (trials.add("b0", one), trials.add("b1", one, seed=1))
    bad = (trials.add("r0", one), trials.add("r1", one, seed=1, outcome=outcome))
    study = evaluate(
        [Row("base", "b3", good), Row("broken", "x", bad), Row("fine", "y", good)],
        num_replicates=10,
    )
    assert [line.label for line in study.lines] == ["base", "broken", "fine"]
    broken = by_label(study.lines, "broken")
    assert broken.problem is not None
    assert reason in broken.problem
    assert "r1" in broken.problem
    assert (broken.runs, broken.differences) == ((), None)
    assert by_label(study.lines, "fine").problem is None


def test_missing_folders_and_predictions_are_problems_of_their_row(
    trials: Trials, tmp_path: Path
) -> None:
    base = Row("base", "b3", (trials.add("b", usual()),))
    lost = trials.add("r", usual())
    (lost / "predictions/0001.parquet").unlink()
    study = evaluate(
        [base, Row("never ran", "x", (tmp_path / "none",)), Row("lost", "y", (lost,))], 10
    )
    assert study.lines[1].problem == "trial none has not ended"
    assert "not a prediction file" in (study.lines[2].problem or "")


def test_a_trial_without_an_overall_score_is_a_problem_of_its_row(trials: Trials) -> None:
    unscored = trials.add("r", usual())
    TrialFolder(unscored).write_epoch(EpochRecord(1, {"train/nli/loss": 1.0}, {}, 1.0, 0.0))
    rows = [Row("base", "b3", (trials.add("b", usual()),)), Row("row", "x", (unscored,))]
    assert "no overall dev score" in (evaluate(rows, 10).lines[1].problem or "")


def test_a_base_without_numbers_is_refused(trials: Trials) -> None:
    failed = trials.add("b", usual(), outcome=Outcome.FAILED)
    with pytest.raises(NothingUsableError, match="base row 'B3' has no numbers"):
        evaluate([Row("B3", "b3", (failed,)), Row("row", "x", (trials.add("r", usual()),))])


# --- rows are aligned, never by guess ---


def test_ids_in_another_order_give_the_same_numbers(trials: Trials) -> None:
    base = Row("base", "b3", (trials.add("b", usual(2)),))
    plain = trials.add("r", {"sentiment": right("sentiment", 1)})
    turned = trials.add("t", {"sentiment": right("sentiment", 1)})
    content = trials.predictions("sentiment", right("sentiment", 1))
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    of_turned = replace(
        content,
        ids=tuple(content.ids[row] for row in order),
        outputs=content.outputs[order],
        labels=LABELS["sentiment"][order],
    )
    TrialFolder(turned).write_predictions(1, [of_turned])
    study = evaluate([base, Row("plain", "x", (plain,)), Row("turned", "y", (turned,))])
    assert study.lines[1].differences == study.lines[2].differences
    assert study.lines[1].differences is not None


def test_other_data_is_refused(trials: Trials) -> None:
    base = Row("base", "b3", (trials.add("b", usual()),))
    other = trials.add("r", usual(), data_fingerprint="another")
    with pytest.raises(IntegrityError, match="trial r: sentiment is scored on other data"):
        evaluate([base, Row("row", "x", (other,))])


def test_other_data_between_the_seeds_of_the_base_is_refused(trials: Trials) -> None:
    folders = (
        trials.add("b0", usual()),
        trials.add("b1", usual(), seed=1, data_fingerprint="another"),
    )
    with pytest.raises(IntegrityError, match="trial b1: sentiment is scored on other data"):
        evaluate([Row("base", "b3", folders)])


def test_other_ids_under_the_same_fingerprint_are_refused(trials: Trials) -> None:
    base = Row("base", "b3", (trials.add("b", {"sentiment": right("sentiment")}),))
    ids = tuple(f"other-{row}" for row in range(8))
    other = trials.add("r", {"sentiment": right("sentiment")}, ids=ids)
    with pytest.raises(IntegrityError, match="other data"):
        evaluate([base, Row("row", "x", (other,))])


@pytest.mark.parametrize("seeds", [(1, 0), (0,)])
def test_rows_over_other_seeds_are_refused(trials: Trials, seeds: tuple[int, ...]) -> None:
    one = {"sentiment": right("sentiment")}
    base = Row("base", "b3", tuple(trials.add(f"b{s}", one, seed=s) for s in (0, 1)))
    row = Row("row", "x", tuple(trials.add(f"r{s}", one, seed=s) for s in seeds))
    with pytest.raises(IntegrityError, match="row 'row' has the seeds"):
        evaluate([base, row])


# --- curves ---


def test_curves_are_means_over_the_bases_seeds(trials: Trials) -> None:
    overall = (0.2, 0.5, 0.4)
    folders = tuple(trials.add(f"b{s}", usual(), seed=s, overall=overall) for s in (0, 1))
    curve = evaluate([Row("base", "b3", folders)], 10).curves["similarity"]
    assert curve.metric == "pearson"
    assert curve.train_loss == pytest.approx((2.5, 1.5, 2 / 3 + 0.5))
    assert curve.dev_loss == pytest.approx((1.5, 1.0, 1 / 3 + 0.5))
    assert curve.score == pytest.approx((0.7, 1.0, 0.9))
    assert curve.overfits_from == 2


def test_the_curves_are_those_of_the_row_asked_for_if_it_has_numbers(trials: Trials) -> None:
    base = trials.add("b", usual(), overall=(0.2, 0.5))
    other = trials.add("o", usual(1), overall=(0.3, 0.4, 0.1))
    failed = trials.add("f", usual(), outcome=Outcome.FAILED)
    rows = [Row("base", "b3", (base,)), Row("B1", "b1", (other,)), Row("B2", "b2", (failed,))]
    found = {label: evaluate(rows, 10, label) for label in ("B1", "B2")}
    assert found["B1"].curves["similarity"].score == pytest.approx((0.3, 0.4, 0.1))
    assert found["B2"].curves["similarity"].score == pytest.approx((0.2, 0.5))
    assert [study.curves_of for study in found.values()] == ["B1", "base"]


# --- ensembles as rows ---


def test_an_ensemble_averages_its_members_seed_by_seed(trials: Trials) -> None:
    """Two members that err on rows of their own; what they average to is computed by hand."""
    logits = {"one": np.array([3.0, -1.0, -1.0, -1.0]), "two": np.array([-1.0, -1.0, 3.0, -1.0])}
    scores = {"one": np.array([0.0, 1, 2, 3, 0]), "two": np.array([0.0, 1, 2, 3, 10])}
    rows = {
        name: tuple(
            trials.add(
                f"{name}{seed}",
                {**usual(2), "paraphrase": logits[name], "similarity": scores[name]},
                seed=seed,
            )
            for seed in (0, 1)
        )
        for name in ("one", "two")
    }
    members = {"paraphrase": ("one", "two"), "similarity": ("one", "two"), "sentiment": ("two",)}
    rows = [Row(name, "b3", folders) for name, folders in rows.items()]
    line = by_label(evaluate([*rows, Row("both", "", members=members)], 50).lines, "both")
    assert [(run.trial, run.seed, run.epoch) for run in line.runs] == [
        ("both, seed 0", 0, None),
        ("both, seed 1", 1, None),
    ]
    scored = line.runs[0].scores
    assert scored["paraphrase"] == 1.0  # alone each has 3 of 4; (3 - 1) / 2 is above 0
    assert scored["similarity"] == pytest.approx(1.0)  # the last rows average to the label
    assert scored["sentiment"] == 6 / 8
    assert scored[OVERALL] == pytest.approx((1 + 1 + 6 / 8) / 3)
    assert line.differences is not None
    assert line.differences["paraphrase"].value == pytest.approx(0.25)


def test_an_ensemble_of_a_row_without_numbers_has_none(trials: Trials) -> None:
    failed = trials.add("f", usual(), outcome=Outcome.FAILED)
    alone = trials.add("s", {"sentiment": right("sentiment")})
    rows = [
        Row("base", "b3", (trials.add("b", usual()),)),
        Row("bad", "b1", (failed,)),
        Row("only", "b3-sentiment-only", (alone,)),
        Row("of bad", "", members={"sentiment": ("base", "bad")}),
        Row("of only", "", members={"paraphrase": ("base", "only")}),
    ]
    lines = evaluate(rows, 10).lines
    assert by_label(lines, "of bad").problem == "no numbers of bad"
    assert by_label(lines, "of only").problem == "s has no task paraphrase"


@pytest.mark.parametrize(
    ("score", "train_loss", "expected"),
    [
        ((0.1, 0.3, 0.2), (3.0, 2.0, 1.0), 2),
        ((0.1, 0.2, 0.3), (3.0, 2.0, 1.0), None),  # best at the end
        ((0.1, 0.3, 0.2), (3.0, 2.0, 2.0), None),  # train does not get better either
        ((0.1, 0.3, 0.3), (3.0, 2.0, 1.0), 2),  # never *better* again
        ((0.1,), (1.0,), None),
    ],
)
def test_overfitting_starts_at_the_best_score_while_the_train_loss_falls(
    score: tuple[float, ...], train_loss: tuple[float, ...], expected: int | None
) -> None:
    assert Curve("accuracy", train_loss, train_loss, score).overfits_from == expected


def test_a_loss_that_was_not_recorded_is_null_in_json(trials: Trials) -> None:
    folder = trials.add("b", usual())
    kept = {k: v for k, v in TrialFolder(folder).epochs()[0].metrics.items() if "train" not in k}
    TrialFolder(folder).write_epoch(EpochRecord(1, kept, {}, 1.0, 0.0))
    study = evaluate([Row("base", "b3", (folder,))], 10)
    assert study.to_json()["curves"]["sentiment"]["train_loss"] == [None]


@pytest.mark.parametrize(
    ("values", "smaller_is_better", "expected"),
    [
        ((0.2, 0.6, 0.4), False, (0.0, 1.0, 0.5)),
        ((3.0, 1.0, 2.0), True, (0.0, 1.0, 0.5)),
        ((0.4, 0.4), False, (1.0, 1.0)),
        ((3.0, math.nan, 1.0), True, (0.0, math.nan, 1.0)),
        ((math.nan, math.nan), True, (math.nan, math.nan)),
        ((0.4,), True, (1.0,)),
    ],
)
def test_scaled_curves_run_from_the_worst_epoch_to_the_best(
    values: tuple[float, ...], smaller_is_better: bool, expected: tuple[float, ...]
) -> None:
    assert scaled(values, smaller_is_better) == pytest.approx(expected, nan_ok=True)
