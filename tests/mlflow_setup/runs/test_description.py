"""The description of a sweep: best trials and counts, with text from data escaped."""

import pytest

from mlflow_setup.runs.description import SweepPage, escaped, run_name
from mlflow_setup.schema import Outcome, RunRecord, Tag


def run(
    trial: str,
    overall: float | None,
    recipe: str = "b3",
    outcome: Outcome | None = None,
    lr: str = "",
) -> RunRecord:
    metrics = {"used/usd": 0.5}
    if overall is not None:
        metrics |= {"best/dev/overall": overall, "best/dev/sentiment/accuracy": overall - 0.1}
    return RunRecord(
        run_id=f"id{trial}",
        trial=trial,
        sweep="s",
        status="FINISHED",
        outcome=outcome,
        params={"optim.lr": lr} if lr else {},
        metrics=metrics,
        tags={Tag.RECIPE.value: recipe},
    )


RUNS = [
    run("majority", 0.4, "majority", Outcome.FINISHED),
    run("0001", 0.6, outcome=Outcome.PRUNED, lr="1.23456e-05"),
    run("0002", 0.7, outcome=Outcome.FINISHED, lr="2e-05"),
    run("0003", None, outcome=Outcome.FAILED),
    run("0004", 0.65),
]
PAGE = SweepPage(
    "s", RUNS, ("optim.lr",), ("majority",), "#/experiments/1/runs/", "#/experiments/1/runs?x=1"
)


def test_the_description_of_a_sweep() -> None:
    lines = PAGE.note().splitlines()
    best = "[0002](#/experiments/1/runs/id0002)"
    assert lines[0] == f"**Best: {best}, overall 0.7000**, +0.3000 over the baseline majority"
    assert lines[2] == "5 trials: 2 finished, 1 pruned, 1 failed, 1 running."
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "|   | trial | overall | sentiment | outcome | lr |"
    assert table[2] == f"| 1 | {best} | 0.7000 | 0.6000 | finished | 2e-05 |"
    assert [line.split(" | ")[1][1:5] for line in table[2:]] == ["0002", "0004", "0001"]
    assert table[4].endswith("| pruned | 1.23e-05 |")
    assert "[All trials, best first](#/experiments/1/runs?x=1)" in lines
    assert lines[-1] == "Next: `ensweep ensemble s`"


def test_the_metrics_of_a_sweep() -> None:
    assert PAGE.metrics() == {
        "best/dev/overall": 0.7,
        "best/dev/sentiment/accuracy": pytest.approx(0.6, rel=1e-9),
        "gain_over_baseline/dev/overall": pytest.approx(0.3, rel=1e-9),
        "trials/finished": 2,
        "trials/pruned": 1,
        "trials/failed": 1,
        "trials/running": 1,
        "used/usd": 2.5,
    }


def test_a_sweep_without_a_score() -> None:
    page = SweepPage("s", [run("0001", None, outcome=Outcome.FAILED)])
    assert page.note().startswith("**No trial has a score yet.**")
    assert "|" not in page.note()
    assert page.metrics() == {"trials/failed": 1, "used/usd": 0.5}
    assert "No trials yet" in SweepPage("s", []).note()
    assert SweepPage("s", []).metrics() == {}


def test_markup_in_text_from_data_is_escaped() -> None:
    given = "<script>|[x](javascript:y) **b** `c`\n# d &amp;"
    shown = escaped(given)
    for markup in ("<", "\n", "**", "](", " |", "& "):
        assert markup not in shown.replace("\\*\\*", "").replace("\\]", "")
    assert escaped("a film") == "a film"
    evil = run("0002", 0.7, lr="<img src=x onerror=alert(1)>|")
    page = SweepPage("s", [evil], ("optim.lr",), description="<b>bold</b>")
    assert "<" not in page.note()


@pytest.mark.parametrize(
    ("trial", "recipe", "searched", "expected"),
    [
        ("0001", "b3", {}, "0001 b3"),
        ("0001-b3", "b3", {}, "0001-b3"),
        (
            "0002",
            "b3",
            {"optim.lr": 1.23456e-05, "model.pooling": "cls"},
            "0002 lr=1.23e-05 pooling=cls",
        ),
        ("0002", "b3", {"optim.lr": 1e-4, "probe.lr": 1e-3}, "0002 optim.lr=0.0001 probe.lr=0.001"),
        ("0003", "b3", {"model.encoder": "x" * 200}, "0003"),
        ("0004", "b3", {"model.encoder": "a\nb"}, "0004 encoder=a?b"),
    ],
)
def test_a_run_is_named_by_the_settings_that_were_searched(
    trial: str, recipe: str, searched: dict[str, object], expected: str
) -> None:
    assert run_name(trial, recipe, searched) == expected
