"""The search space: valid parameters, and samples under conditions."""

import optuna
import pytest
from pydantic import ValidationError

from search.config.space import Parameter, corner_points, pick, suggest

LR = Parameter(type="float", low=1e-5, high=1e-3, log=True)
SIZE = Parameter(type="categorical", choices=(128, 256))
MNR = Parameter(type="categorical", choices=(True, False))
WEIGHT = Parameter(type="float", low=0.1, high=10, when={"loss.mnr.enabled": True})
SPACE = {"optim.lr": LR, "loss.mnr.enabled": MNR, "loss.mnr.weight": WEIGHT}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "float", "low": 1}, "a float key needs low and high"),
        ({"type": "float", "low": 2, "high": 1}, "low must be below high, got low 2 and high 1"),
        ({"type": "float", "low": 1, "high": 1}, "low must be below high"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "low must be above 0 where log"),
        ({"type": "float", "low": 0, "high": float("inf")}, "low must be below high"),
        ({"type": "int", "low": 1.5, "high": 3}, "an int key needs whole numbers"),
        ({"type": "int", "low": 1, "high": 3, "choices": (1,)}, "choices belong to categorical"),
        ({"type": "categorical"}, "a categorical key needs a list of choices"),
        ({"type": "categorical", "choices": ()}, "a categorical key needs a list of choices"),
        ({"type": "categorical", "choices": (1, 1)}, "a choice is given twice"),
        ({"type": "categorical", "choices": (1, 2), "low": 1}, "belong to float and int keys"),
        ({"type": "uniform", "low": 1, "high": 2}, "'float', 'int' or 'categorical'"),
        ({"type": "float", "low": 1, "high": 2, "step": 1}, "step"),
    ],
)
def test_an_invalid_parameter_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Parameter(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parameter", "value", "inside"),
    [
        (LR, 1e-5, True),
        (LR, 1e-3, True),
        (LR, 1.1e-3, False),
        (LR, True, False),
        (LR, "1e-4", False),
        (SIZE, 256, True),
        (SIZE, 512, False),
        (MNR, True, True),
        (MNR, 1, False),
        (Parameter(type="int", low=1, high=3), 2, True),
        (Parameter(type="int", low=1, high=3), 2.5, False),
    ],
)
def test_contains(parameter: Parameter, value: object, inside: bool) -> None:
    assert parameter.contains(value) is inside


def test_a_key_is_sampled_only_where_its_condition_holds() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [suggest(SPACE, study.ask(), {}) for _ in range(40)]
    assert {point["loss.mnr.enabled"] for point in points} == {True, False}
    for point in points:
        assert ("loss.mnr.weight" in point) is point["loss.mnr.enabled"]
        assert all(SPACE[key].contains(value) for key, value in point.items())


@pytest.mark.parametrize("enabled", [True, False])
def test_a_condition_may_name_a_fixed_setting(enabled: bool) -> None:
    space = {"loss.mnr.weight": WEIGHT}
    point = suggest(space, optuna.create_study().ask(), {"loss.mnr.enabled": enabled})
    assert list(point) == (["loss.mnr.weight"] if enabled else [])


def test_a_known_point_leaves_inactive_keys_out() -> None:
    known = {"optim.lr": 1e-4, "loss.mnr.enabled": False, "loss.mnr.weight": 3.0}
    assert pick(SPACE, known, {}) == {"optim.lr": 1e-4, "loss.mnr.enabled": False}


def test_corners_cover_both_ends_and_every_choice() -> None:
    points = list(corner_points(SPACE, {}))
    for key, parameter in SPACE.items():
        assert {point[key] for point in points if key in point} == set(parameter.corners)
    assert all(point["loss.mnr.enabled"] for point in points if "loss.mnr.weight" in point)


def test_corners_of_a_key_that_is_never_active_are_left_out() -> None:
    points = list(corner_points({"loss.mnr.weight": WEIGHT}, {"loss.mnr.enabled": False}))
    assert not any(points)
