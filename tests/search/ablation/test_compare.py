"""Scores of a study's rows: means, spreads over seeds, paired differences and intervals."""

from typing import Any

import numpy as np
import pytest
from study_trials import LABELS, Trials, by_label, right, usual

from mlflow_setup.schema import OVERALL, Outcome
from search.ablation.compare import evaluate
from search.ablation.row_results import Row

TASKS = ("sentiment", "paraphrase", "similarity")


def test_means_spreads_and_paired_differences_match_hand_calculations(trials: Trials) -> None:
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
    sentiment = second.differences["sentiment"]
    assert sentiment.value == pytest.approx((0.25 + 0.125) / 2)
    assert sentiment.spread == pytest.approx(0.125 / np.sqrt(2))  # of 0.25 and 0.125
    overall = second.differences[OVERALL]
    assert overall.value == pytest.approx((0.1875 + 0.25) / 3)
    assert overall.spread == pytest.approx(0.125 / np.sqrt(2) / 3)
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
def test_a_run_is_evaluated_at_its_best_epoch_the_earliest_of_equals(
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
def test_with_several_stages_only_epochs_of_the_last_are_eligible(
    trials: Trials, stages: list[str], lengths: dict[str, int], epoch: int
) -> None:
    """Earlier epochs equal those of the row without the last stage: it could never be worse."""
    settings = {"train.stages": stages, **lengths}
    row = trials.add("r", usual(), overall=(0.5, 0.9, 0.2, 0.3), settings=settings)
    (line,) = evaluate([Row("row", "b3-swa", (row,))], num_replicates=10).lines
    assert line.runs[0].epoch == epoch


def test_equal_predictions_have_a_difference_of_exactly_0(trials: Trials) -> None:
    base = (trials.add("b0", usual(2)), trials.add("b1", usual(3), seed=1))
    copy = (trials.add("c0", usual(2)), trials.add("c1", usual(3), seed=1))
    rows = [Row("base", "b3", base), Row("same trials", "b3", base), Row("copy", "x", copy)]
    for line in evaluate(rows).lines[1:]:
        assert line.differences
        for difference in line.differences.values():
            assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
            assert (difference.spread, difference.is_clear) == (0.0, False)


def test_a_row_is_compared_with_its_base_or_the_best_of_its_bases(
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
    bases = [line.base for line in study.lines]
    assert bases == [None, "first", "first", "other", "better", "better"]
    values = [(line.differences or {})["sentiment"].value for line in study.lines[1:]]
    assert values[:3] == pytest.approx([-0.5, -0.375, 0.25])
    assert values[4] == pytest.approx(0.125)


def test_a_row_whose_base_has_no_scores_has_a_problem(trials: Trials) -> None:
    rows = [
        Row("first", "b3", (trials.add("b", usual(0)),)),
        Row("broken", "b1", (trials.add("o", usual(4), outcome=Outcome.FAILED),)),
        Row("row", "x", (trials.add("r", usual(2)),), bases=("broken",)),
    ]
    study = evaluate(rows, num_replicates=10)
    assert by_label(study.lines, "row").problem == "its base broken has no scores"


@pytest.mark.parametrize(
    ("settings", "num_seeds"),
    [
        ({}, 4),
        ({"distill.enabled": True}, 4),  # each seed has its own teacher
        ({"distill.enabled": True, "distill.num_teachers": 2}, 1),  # seeds 0 and 1, 1 and 2, ...
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
        difference = (line.differences or {})["paraphrase"]
        assert difference.num_seeds == num_seeds
        assert (difference.p_value is None) is (num_seeds < 3)


def test_results_are_reproducible(trials: Trials) -> None:
    rows = [
        Row("base", "b3", (trials.add("b", usual(2)),)),
        Row("row", "x", (trials.add("r", usual(4, 1)),)),
    ]
    assert evaluate(rows).to_json() == evaluate(rows).to_json()
