"""Rows that can be compared only in part, or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest
from study_trials import LABELS, Trials, by_label, right, usual

from mlflow_setup.errors import IntegrityError, NothingUsableError
from mlflow_setup.schema import OVERALL, EpochRecord, Outcome
from search.ablation.compare import evaluate
from search.ablation.row_results import Row
from trainable.storage.trial_folder import TrialFolder


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


def test_a_base_without_scores_is_refused(trials: Trials) -> None:
    failed = trials.add("b", usual(), outcome=Outcome.FAILED)
    with pytest.raises(NothingUsableError, match="base row 'B3' has no scores"):
        evaluate([Row("B3", "b3", (failed,)), Row("row", "x", (trials.add("r", usual()),))])


def test_the_order_of_ids_does_not_matter(trials: Trials) -> None:
    base = Row("base", "b3", (trials.add("b", usual(2)),))
    plain = trials.add("r", {"sentiment": right("sentiment", 1)})
    reordered = trials.add("t", {"sentiment": right("sentiment", 1)})
    content = trials.predictions("sentiment", right("sentiment", 1))
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    predictions = replace(
        content,
        ids=tuple(content.ids[row] for row in order),
        outputs=content.outputs[order],
        labels=LABELS["sentiment"][order],
    )
    TrialFolder(reordered).write_predictions(1, [predictions])
    study = evaluate([base, Row("plain", "x", (plain,)), Row("reordered", "y", (reordered,))])
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
