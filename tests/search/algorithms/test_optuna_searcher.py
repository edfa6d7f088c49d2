"""The searcher without Ray: names, first trials, what Optuna gets, and that it learns."""

import math
from collections.abc import Collection
from pathlib import Path

import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from search.algorithms.optuna_searcher import OptunaSearcher
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from trainable.config.config import Config
from trainable.config.parse import from_flat

SPACE = {
    "optim.lr": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "model.head_dropout": {"type": "float", "low": 0.0, "high": 0.9},
    "loss.mnr.enabled": {"type": "categorical", "choices": [True, False]},
    "loss.mnr.weight": {
        "type": "float",
        "low": 0.1,
        "high": 10.0,
        "log": True,
        "when": {"loss.mnr.enabled": True},
    },
}


def sweep_of(tmp_path: Path, **changes: object) -> SweepConfig:
    path = tmp_path / "mine.yaml"
    content = {"recipe": "b3", "space": SPACE, **changes}
    content["search"] = {"baselines": False, **content.get("search", {})}  # type: ignore[dict-item]
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_sweep(str(path), (), {})


def result(epoch: int, best: float, **more: object) -> dict[str, object]:
    return {"epoch": epoch, "num_epochs": 4, "best_overall": best, "diverged": 0, **more}


def test_first_trials_come_first_and_are_named_by_their_recipes(tmp_path: Path) -> None:
    searcher = OptunaSearcher(sweep_of(tmp_path, first_trials=["baseline", "b2"]))
    suggested = [searcher.suggest(str(number)) for number in range(4)]
    names = [trial["trial"] for trial in suggested]
    assert names == ["0001-baseline", "0002-b2", "0003", "0004"]
    assert [trial["recipe"] for trial in suggested] == ["baseline", "b2", "b3", "b3"]
    assert suggested[0]["settings"]["loss.mnr.enabled"] is False
    assert "loss.mnr.weight" not in suggested[0]["settings"]
    assert suggested[1]["settings"]["model.head_dropout"] == 0.0
    assert suggested[1]["settings"]["loss.mnr.weight"] == 1.0


def test_a_paused_trial_is_suggested_again_when_it_is_promoted(tmp_path: Path) -> None:
    """In the study it is pruned in the meantime, then appears again with its final value."""
    searcher = OptunaSearcher(sweep_of(tmp_path, search={"num_samples": 2}))
    paused, asked = {"0001"}, list[tuple[list[str], bool]]()
    promoted: list[str] = []

    def promote(names: Collection[str], is_end: bool) -> str | None:
        asked.append((sorted(names), is_end))
        return promoted.pop() if promoted else None

    searcher.is_paused, searcher.promote = paused.__contains__, promote
    first = searcher.suggest("a")
    searcher.on_trial_complete("a", result(1, 0.5))
    assert searcher.paused == {"0001": first}
    assert [trial.state for trial in searcher.study.trials] == [TrialState.PRUNED]
    second = searcher.suggest("b")
    assert isinstance(second, dict)
    assert second["trial"] == "0002"
    assert searcher.num_left == 2  # one runs, one may yet be promoted
    assert searcher.suggest("c") is None
    paused.clear()
    promoted.append("0001")
    assert searcher.suggest("c") == first
    searcher.on_trial_complete("c", result(4, 0.7))
    searcher.on_trial_complete("b", result(4, 0.6))
    assert searcher.suggest("d") == "FINISHED"
    assert asked[-1] == ([], True)
    reported = [(trial.state, trial.value) for trial in searcher.study.trials]
    assert reported == [
        (TrialState.PRUNED, 0.5),
        (TrialState.COMPLETE, 0.6),
        (TrialState.COMPLETE, 0.7),
    ]
    assert searcher.study.trials[0].params == searcher.study.trials[2].params


def test_a_retried_trial_is_suggested_after_its_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are suggested meanwhile, on the other nodes; none while starts are on hold."""
    now = 100.0
    monkeypatch.setattr("search.algorithms.optuna_searcher.time.monotonic", lambda: now)
    held, avoided = [False], list[str]()
    searcher = OptunaSearcher(
        sweep_of(tmp_path, search={"num_samples": 2}),
        is_holding=lambda: held[0],
        to_avoid=lambda: avoided,
    )
    first = searcher.suggest("a")
    assert isinstance(first, dict)
    assert "avoided" not in first
    searcher.on_trial_complete("a", error=True)
    searcher.retry(first["trial"], after_seconds=5)
    assert searcher.num_to_come == 2
    held[0] = True
    assert searcher.suggest("b") is None
    held[0], avoided[:] = False, ["n1"]
    second = searcher.suggest("b")
    assert isinstance(second, dict)
    assert (second["trial"], second["avoided"]) == ("0002", ["n1"])
    assert searcher.suggest("c") is None  # not yet, and not the end of the search
    now += 5
    assert searcher.suggest("c") == {**first, "avoided": ["n1"]}


def test_suggestions_are_configurations_with_origins(tmp_path: Path) -> None:
    searcher = OptunaSearcher(sweep_of(tmp_path, first_trials=["b2"]))
    for number, chosen_by in enumerate(["first trial 1", "search", "search"]):
        trial = searcher.suggest(str(number))
        config = from_flat(trial["settings"], trial["origin"]).flat()
        assert config["model.shared_fcn"] is True
        assert trial["origin"]["model.shared_fcn"] == "recipe b3"
        assert set(trial["searched"]) <= set(SPACE)
        assert {trial["origin"][key] for key in trial["searched"]} == {chosen_by}
        assert set(trial["settings"]) <= set(Config().flat())


def test_suggestions_are_reproducible_by_seed(tmp_path: Path) -> None:
    def suggestions(seed: int) -> list[dict[str, object]]:
        searcher = OptunaSearcher(sweep_of(tmp_path, search={"seed": seed}))
        found = []
        for number in range(12):
            found.append(searcher.suggest(str(number))["settings"])
            searcher.on_trial_complete(str(number), result(4, number / 20))
        return found

    assert suggestions(1) == suggestions(1)
    assert suggestions(1) != suggestions(2)


@pytest.mark.parametrize("objective", ["overall", "tasks"])
def test_settings_are_sampled_independently(tmp_path: Path, objective: str) -> None:
    """Sampled jointly, a search stays near its first good point (docs/experiments.md)."""
    search = {"objective": objective, "num_startup_trials": 1}
    study = OptunaSearcher(sweep_of(tmp_path, search=search)).study
    for point in ({"optim.lr": 1e-4}, {"optim.lr": 1e-3}):
        distributions = {"optim.lr": FloatDistribution(1e-5, 1e-2, log=True)}
        values = [0.5] * len(study.directions)
        study.add_trial(create_trial(params=point, distributions=distributions, values=values))
    frozen = create_trial(state=TrialState.RUNNING)
    assert study.sampler.infer_relative_search_space(study, frozen) == {}


@pytest.mark.parametrize(
    ("last", "error", "state", "value"),
    [
        (result(4, 0.7), False, TrialState.COMPLETE, 0.7),
        (result(3, 0.6), False, TrialState.PRUNED, 0.6),
        (result(2, 0.0, diverged=1), False, TrialState.FAIL, None),
        (result(0, 0.0, diverged=1), False, TrialState.FAIL, None),
        (result(4, math.nan), False, TrialState.FAIL, None),
        (result(4, math.inf), False, TrialState.FAIL, None),
        (result(3, 0.6), True, TrialState.FAIL, None),
        ({"trial_id": "x", "done": True}, False, TrialState.FAIL, None),
        (None, True, TrialState.FAIL, None),
    ],
)
def test_states_and_values_that_optuna_gets(
    tmp_path: Path,
    last: dict[str, object] | None,
    error: bool,
    state: TrialState,
    value: float | None,
) -> None:
    searcher = OptunaSearcher(sweep_of(tmp_path))
    searcher.suggest("x")
    searcher.on_trial_result("x", result(1, 0.5))
    searcher.on_trial_complete("x", last, error)
    if error:
        searcher.fail("0001")
    (trial,) = searcher.study.trials
    assert (trial.state, trial.value) == (state, value)
    assert trial.intermediate_values[1] == 0.5
    assert all(math.isfinite(number) for number in trial.intermediate_values.values())


def test_a_replayed_epoch_and_an_unknown_trial_are_ignored(tmp_path: Path) -> None:
    searcher = OptunaSearcher(sweep_of(tmp_path))
    searcher.suggest("x")
    for value in (0.5, 0.6):
        searcher.on_trial_result("x", result(1, value))
    searcher.on_trial_result("y", result(1, 0.9))
    searcher.on_trial_complete("y", result(4, 0.9))
    searcher.on_trial_complete("x", result(4, 0.7))
    searcher.on_trial_complete("x", result(4, 0.1))
    (trial,) = searcher.study.trials
    assert trial.intermediate_values == {1: 0.5, 4: 0.7}
    assert trial.value == 0.7


def surface(settings: dict[str, object]) -> float:
    """Best near lr 3e-4, dropout 0.2, MNR on with weight 1: four dimensions, one conditional."""
    value = 1.0 - 0.3 * abs(math.log10(settings["optim.lr"] / 3e-4))  # type: ignore[operator]
    value -= 0.5 * abs(settings["model.head_dropout"] - 0.2)  # type: ignore[operator]
    if not settings["loss.mnr.enabled"]:
        return value - 0.3
    return value - 0.2 * abs(math.log10(settings["loss.mnr.weight"]))  # type: ignore[arg-type]


def last_ten_of_forty(sweep: SweepConfig) -> list[float]:
    searcher = OptunaSearcher(sweep)
    values = []
    for number in range(40):
        values.append(surface(searcher.suggest(str(number))["settings"]))
        searcher.on_trial_complete(str(number), result(4, values[-1]))
    return values[-10:]


def test_it_is_better_than_random_search(tmp_path: Path) -> None:
    """By the mean of the last 10 of 40 suggestions; the random search never ends its start-up."""
    wins = 0
    for seed in range(10):
        common = {"seed": seed, "num_samples": 40}
        learning = sweep_of(tmp_path, search={**common, "num_startup_trials": 8})
        random = sweep_of(tmp_path, search={**common, "num_startup_trials": 1000})
        wins += sum(last_ten_of_forty(learning)) > sum(last_ten_of_forty(random))
    assert wins >= 8
