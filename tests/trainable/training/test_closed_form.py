"""Fitted heads predict as scikit-learn's models do, and can be trials."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from mlflow_setup.errors import ConfigError
from mlflow_setup.schema import Outcome
from tests.helpers.tiny_trials import config_of, run
from trainable.config.sections import Model
from trainable.config.tasks import PAPER_TASKS, Kind
from trainable.model.heads import build_head
from trainable.storage.trial_folder import TrialFolder
from trainable.training.closed_form import fit_head

H, N = 6, 200
RANDOM = np.random.default_rng(0)
SIDES = torch.from_numpy(RANDOM.normal(size=(2, N, H)))
U, V = SIDES.numpy()
COSINES = (U * V).sum(1) / np.linalg.norm(U, axis=1) / np.linalg.norm(V, axis=1)
PAIRS = np.hstack([U * V, np.abs(U - V), COSINES[:, None]])


def _fitted(name: str, heads: str, labels: np.ndarray) -> np.ndarray:
    task = PAPER_TASKS[name]
    sides = SIDES[:1] if task.kind is Kind.CLASSIFICATION else SIDES
    head = build_head(task, H, Model(heads=heads, head_dropout=0.0)).double()  # type: ignore[arg-type]
    fit_head(head, task.kind, sides, labels)
    output = head(tuple(sides), (None,) * len(sides))
    found: np.ndarray = output.outputs.detach().numpy()
    return found


def test_class_probabilities_equal_those_of_logistic_regression() -> None:
    labels = np.digitize(U[:, 0] + 0.3 * RANDOM.normal(size=N), [-1, -0.3, 0.3, 1]).astype(float)
    expected = LogisticRegression(max_iter=1000).fit(U, labels)
    outputs = torch.from_numpy(_fitted("sentiment", "linear", labels))
    assert np.allclose(outputs.softmax(1), expected.predict_proba(U), atol=1e-5)


@pytest.mark.parametrize("present", [[1, 3], [0, 2, 4], [2]])
def test_a_class_without_examples_is_never_predicted(present: list[int]) -> None:
    labels = RANDOM.choice(present, N).astype(float)
    outputs = _fitted("sentiment", "linear", labels)
    assert set(outputs.argmax(1)) <= set(present)
    if len(present) == 2:
        expected = LogisticRegression(max_iter=1000).fit(U, labels).predict(U)
        assert (outputs.argmax(1) == expected).all()


def test_pair_outputs_equal_regressions_on_products_differences_and_cosine() -> None:
    labels = (COSINES + 0.2 * RANDOM.normal(size=N) > 0).astype(float)
    expected = LogisticRegression(max_iter=1000).fit(PAIRS, labels).decision_function(PAIRS)
    assert np.allclose(_fitted("paraphrase", "linear", labels), expected, atol=1e-5)
    scores = 2.5 + 2 * COSINES
    expected = Ridge().fit(PAIRS, scores).predict(PAIRS)
    assert np.allclose(_fitted("similarity", "linear", scores), expected, atol=1e-5)


def test_constant_heads_predict_the_most_frequent_class_and_the_mean_score() -> None:
    labels = np.repeat([0.0, 1, 2, 3, 4], [10, 20, 90, 50, 30])
    assert set(_fitted("sentiment", "constant", labels).argmax(1)) == {2}
    assert (_fitted("paraphrase", "constant", np.repeat([0.0, 1], [150, 50])) < 0).all()
    scores = RANDOM.uniform(0, 5, N)
    assert np.allclose(_fitted("similarity", "constant", scores), scores.mean())


@pytest.mark.parametrize("heads", ["linear", "constant"])
def test_a_fitted_trial_has_one_epoch_with_weights_and_predictions(
    heads: str, tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    config = config_of(
        tiny_encoder,
        tiny_data,
        f"model.heads={heads}",
        "train.stages=[fit]",
        *("model.shared_fcn=false", "model.nonlinear_heads=false"),
        "model.paraphrase_structure=false",
    )
    assert run(config, tmp_path / "trial", tmp_path).outcome is Outcome.FINISHED
    trial = TrialFolder(tmp_path / "trial")
    assert (len(trial.epochs()), trial.kept_epochs()) == (1, [1])
    trial.require_weights(1)
    assert trial.predictions_path(1).is_file()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["train.stages=[fit]"], "fit is for linear heads"),
        (["model.heads=linear"], "belongs to the paper's heads"),
        (["model.heads=constant", "model.shared_fcn=false"], "can only be fitted"),
    ],
)
def test_settings_without_a_closed_form_are_refused(
    overrides: list[str], problem: str, tiny_encoder: Path, tiny_data: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        config_of(tiny_encoder, tiny_data, *overrides)
