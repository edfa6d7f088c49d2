"""A study's curves over epochs, and rows that are ensembles of other rows."""

import math

import numpy as np
import pytest
from study_trials import Trials, by_label, right, usual

from mlflow_setup.schema import OVERALL, EpochRecord, Outcome
from search.ablation.compare import evaluate
from search.ablation.curves import Curve, scaled
from search.ablation.row_results import Row
from trainable.storage.trial_folder import TrialFolder


def test_curves_are_means_over_the_seeds_of_the_base(trials: Trials) -> None:
    overall = (0.2, 0.5, 0.4)
    folders = tuple(trials.add(f"b{s}", usual(), seed=s, overall=overall) for s in (0, 1))
    curve = evaluate([Row("base", "b3", folders)], 10).curves["similarity"]
    assert curve.metric == "pearson"
    assert curve.train_loss == pytest.approx((2.5, 1.5, 2 / 3 + 0.5))
    assert curve.dev_loss == pytest.approx((1.5, 1.0, 1 / 3 + 0.5))
    assert curve.score == pytest.approx((0.7, 1.0, 0.9))
    assert curve.overfits_from == 2


def test_curves_are_of_the_requested_row_or_of_the_base_if_it_has_no_scores(trials: Trials) -> None:
    base = trials.add("b", usual(), overall=(0.2, 0.5))
    other = trials.add("o", usual(1), overall=(0.3, 0.4, 0.1))
    failed = trials.add("f", usual(), outcome=Outcome.FAILED)
    rows = [Row("base", "b3", (base,)), Row("B1", "b1", (other,)), Row("B2", "b2", (failed,))]
    found = {label: evaluate(rows, 10, label) for label in ("B1", "B2")}
    assert found["B1"].curves["similarity"].score == pytest.approx((0.3, 0.4, 0.1))
    assert found["B2"].curves["similarity"].score == pytest.approx((0.2, 0.5))
    assert [study.curves_of for study in found.values()] == ["B1", "base"]


def test_an_ensemble_averages_its_members_seed_by_seed(trials: Trials) -> None:
    """The members err on different dev rows; the expected averages are computed by hand."""
    logits = {"one": np.array([3.0, -1.0, -1.0, -1.0]), "two": np.array([-1.0, -1.0, 3.0, -1.0])}
    scores = {"one": np.array([0.0, 1, 2, 3, 0]), "two": np.array([0.0, 1, 2, 3, 10])}
    rows = []
    for name in ("one", "two"):
        outputs = {**usual(2), "paraphrase": logits[name], "similarity": scores[name]}
        folders = tuple(trials.add(f"{name}{seed}", outputs, seed=seed) for seed in (0, 1))
        rows.append(Row(name, "b3", folders))
    members = {"paraphrase": ("one", "two"), "similarity": ("one", "two"), "sentiment": ("two",)}
    line = by_label(evaluate([*rows, Row("both", "", members=members)], 50).lines, "both")
    assert [(run.trial, run.seed, run.epoch) for run in line.runs] == [
        ("both, seed 0", 0, None),
        ("both, seed 1", 1, None),
    ]
    ensemble = line.runs[0].scores
    assert ensemble["paraphrase"] == 1.0  # each member has 3 of 4; (3 - 1) / 2 is above 0
    assert ensemble["similarity"] == pytest.approx(1.0)  # the last outputs average to the label
    assert ensemble["sentiment"] == 6 / 8
    assert ensemble[OVERALL] == pytest.approx((1 + 1 + 6 / 8) / 3)
    assert line.differences is not None
    assert line.differences["paraphrase"].value == pytest.approx(0.25)


def test_an_ensemble_with_a_member_without_scores_has_a_problem(trials: Trials) -> None:
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
    assert by_label(lines, "of bad").problem == "no scores of bad"
    assert by_label(lines, "of only").problem == "s has no task paraphrase"


@pytest.mark.parametrize(
    ("score", "train_loss", "expected"),
    [
        ((0.1, 0.3, 0.2), (3.0, 2.0, 1.0), 2),
        ((0.1, 0.2, 0.3), (3.0, 2.0, 1.0), None),  # best at the end
        ((0.1, 0.3, 0.2), (3.0, 2.0, 2.0), None),  # the train loss does not fall
        ((0.1, 0.3, 0.3), (3.0, 2.0, 1.0), 2),  # an equal score is no improvement
        ((0.1,), (1.0,), None),
    ],
)
def test_overfitting_starts_at_the_best_score_while_the_train_loss_falls(
    score: tuple[float, ...], train_loss: tuple[float, ...], expected: int | None
) -> None:
    assert Curve("accuracy", train_loss, train_loss, score).overfits_from == expected


def test_a_missing_loss_is_null_in_json(trials: Trials) -> None:
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
def test_curves_are_scaled_from_0_at_the_worst_epoch_to_1_at_the_best(
    values: tuple[float, ...], smaller_is_better: bool, expected: tuple[float, ...]
) -> None:
    assert scaled(values, smaller_is_better) == pytest.approx(expected, nan_ok=True)
