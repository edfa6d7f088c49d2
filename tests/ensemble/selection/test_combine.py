import numpy as np
import pytest

from ensemble.selection.combine import (
    Averaged,
    Transform,
    average,
    combine,
    linear,
    log_odds,
    to_predictions,
)
from trainable.config.tasks import PAPER_TASKS, Kind
from trainable.evaluation.metrics import predicted_labels, task_metric

SENTIMENT, PARAPHRASE, SIMILARITY = (
    PAPER_TASKS[name] for name in ("sentiment", "paraphrase", "similarity")
)


def random_outputs(task_name: str, num_members: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (num_members, 40, 5) if task_name == "sentiment" else (num_members, 40)
    return rng.standard_normal(shape).astype(np.float32) * 3


def test_class_probabilities_are_averaged() -> None:
    outputs = random_outputs("sentiment", 2)
    softmax = np.exp(outputs) / np.exp(outputs).sum(axis=2, keepdims=True)
    combined = combine(SENTIMENT, outputs, [0.25, 0.75])
    np.testing.assert_allclose(combined, 0.25 * softmax[0] + 0.75 * softmax[1], atol=1e-5)
    # not logits, with which one sure member would outvote two unsure ones
    logits = [np.array([[9.0, 0.0]]), *[np.array([[0.0, 2.0]])] * 2]
    assert combine(SENTIMENT, logits, [1 / 3] * 3).argmax() == 1
    assert np.mean(logits, axis=0).argmax() == 0


def test_logits_of_paraphrase_and_scores_of_similarity_are_averaged() -> None:
    outputs = random_outputs("paraphrase", 2)
    expected = 0.25 * outputs[0].astype(float) + 0.75 * outputs[1].astype(float)
    np.testing.assert_allclose(combine(PARAPHRASE, outputs, [0.25, 0.75]), expected, atol=1e-5)
    np.testing.assert_allclose(combine(SIMILARITY, outputs, [0.25, 0.75]), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_one_member_keeps_its_labels(name: str) -> None:
    task, outputs = PAPER_TASKS[name], random_outputs(name, 1)
    combined = combine(task, outputs, [1.0])
    alone = predicted_labels(task.kind, outputs[0])
    np.testing.assert_allclose(predicted_labels(task.kind, combined), alone)
    labels = np.arange(40.0) % 2
    assert task_metric(task, combined, labels) == task_metric(task, outputs[0], labels)


@pytest.mark.parametrize("num_members", [2, 3, 7, 23, 50])
def test_ties_are_exact_for_any_number_of_members(num_members: int) -> None:
    """k - 1 members, and one that is k - 1 times as sure of the opposite."""
    weights = [1 / num_members] * num_members
    logit = to_predictions(PARAPHRASE, np.array([0.3], np.float32))
    predictions = np.stack([logit] * (num_members - 1) + [(1 - num_members) * logit])
    assert average(PARAPHRASE, predictions, weights) == 0
    # classes 1 and 2 have equal means, so the lower is predicted in any order of members
    planes = np.zeros((num_members, 1, 5))
    planes[:-1, 0, 1], planes[-1, 0, 2] = logit, -predictions[-1, 0]
    for order in (np.arange(num_members), np.arange(num_members)[::-1]):
        assert average(SENTIMENT, planes[order], weights)[0].argmax() == 1


@pytest.mark.parametrize("name", ["sentiment", "paraphrase"])
def test_the_order_of_members_does_not_matter(name: str) -> None:
    task, outputs = PAPER_TASKS[name], random_outputs(name, 7)
    weights = np.array([1, 5, 2, 9, 3, 2, 1]) / 23
    combined = combine(task, outputs, weights.tolist())
    order = np.random.default_rng(1).permutation(7)
    assert (combine(task, outputs[order], weights[order].tolist()) == combined).all()


def test_large_logits_do_not_overflow() -> None:
    prediction = to_predictions(SENTIMENT, np.array([[1e4, 0, 0, 0, -1e4]], np.float32))
    np.testing.assert_array_equal(prediction, [[1, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("num_members", "weights", "message"),
    [
        (0, [], "0 members but 0 weights"),
        (2, [1.0], "2 members but 1 weights"),
        (2, [0.5, 0.6], "sum to 1"),
        (2, [1.5, -0.5], "at least 0"),
        (1, [float("nan")], "sum to 1"),
    ],
)
def test_invalid_weights_are_refused(num_members: int, weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(SIMILARITY, [np.zeros(3)] * num_members, weights)


def test_entailment_outputs_cannot_be_combined() -> None:
    assert PAPER_TASKS["nli"].kind is Kind.ENTAILMENT
    with pytest.raises(ValueError, match="entailment task has no outputs"):
        to_predictions(PAPER_TASKS["nli"], np.zeros(3))


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)


def test_logits_or_probabilities_are_averaged_on_request() -> None:
    logits = random_outputs("sentiment", 2)
    found = combine(SENTIMENT, logits, [0.25, 0.75], [Transform(Averaged.LOGITS)] * 2)
    np.testing.assert_allclose(found, softmax(0.25 * logits[0] + 0.75 * logits[1]), atol=1e-5)
    outputs = random_outputs("paraphrase", 2).astype(float)
    found = combine(PARAPHRASE, outputs, [0.25, 0.75], [Transform(Averaged.PROBABILITIES)] * 2)
    p = 0.25 / (1 + np.exp(-outputs[0])) + 0.75 / (1 + np.exp(-outputs[1]))
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), p, atol=1e-5)


@pytest.mark.parametrize("averaged", Averaged)
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_one_member_keeps_its_score_whatever_is_averaged(name: str, averaged: Averaged) -> None:
    task, outputs = PAPER_TASKS[name], random_outputs(name, 1)
    labels = np.arange(40.0) % (5 if name == "sentiment" else 2)
    transform = Transform.fit(task, averaged, outputs[0], labels)
    combined = combine(task, outputs, [1.0], [transform])
    expected, _ = task_metric(task, outputs[0], labels)
    assert task_metric(task, combined, labels)[0] == pytest.approx(expected)
    # predictions have the same score as the combined outputs
    prediction = transform.apply(task, outputs[0])
    assert task_metric(task, prediction, labels)[0] == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_standardised_scores_do_not_depend_on_a_members_scale(scale: float) -> None:
    outputs = random_outputs("similarity", 3).astype(np.float64)
    labels = np.arange(40.0) % 6
    expected, found = (
        combine(
            SIMILARITY,
            given,
            [0.5, 0.25, 0.25],
            [Transform.fit(SIMILARITY, Averaged.STANDARDISED, o, labels) for o in given],
        )
        for given in (outputs, [outputs[0], scale * outputs[1] + 3 * scale, outputs[2]])
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert abs(found.mean() - labels.mean()) < 1e-9  # on the scale of the labels


def test_standardised_scores_are_clipped_and_rounding_errors_are_not_scaled_up() -> None:
    labels = np.arange(40.0) % 6
    one_far = np.where(np.arange(40) == 7, 1e9, np.sin(np.arange(40.0)))
    transform = Transform.fit(SIMILARITY, Averaged.STANDARDISED, one_far, labels)
    assert np.ptp(transform.apply(SIMILARITY, one_far)) <= 8 * labels.std()
    constant = np.float32(4) + np.float32(1e-7) * np.arange(40, dtype=np.float32)
    transform = Transform.fit(SIMILARITY, Averaged.STANDARDISED, constant, labels)
    assert np.ptp(transform.apply(SIMILARITY, constant)) < 1e-9


@pytest.mark.parametrize(
    "numbers", [(np.nan, 1, 0, 1), (0, 0, 0, 1), (0, 1, 0, -1), (0, np.inf, 0, 1)]
)
def test_an_invalid_transform_is_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="means must be finite and its spreads above 0"):
        Transform(Averaged.STANDARDISED, *numbers)


def test_a_linear_model_weighs_log_odds() -> None:
    logits = random_outputs("sentiment", 2).astype(float)
    intercept = [0.5, -0.5, 0.0, 0.0, 0.25]
    found = combine(SENTIMENT, logits, [2.0, -0.5], intercept=intercept)
    assert (log_odds(SENTIMENT, to_predictions(SENTIMENT, logits[0]), Averaged.PAPER) > -14).all()
    kept = [np.log(np.maximum(softmax(given), 2**-20)) for given in logits]
    expected = softmax(2 * kept[0] - 0.5 * kept[1] + intercept)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # rounding
    z = random_outputs("paraphrase", 2).astype(float)
    found = combine(PARAPHRASE, z, [2.0, -0.5], intercept=[0.3])
    np.testing.assert_allclose(found, 2 * z[0] - 0.5 * z[1] + 0.3, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "intercept"), [([np.nan, 1.0], [0.0]), ([1.0, 1.0], [np.inf]), ([1.0], [0.0])]
)
def test_an_invalid_linear_model_is_refused(weights: list[float], intercept: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must be finite|but 1 weights"):
        linear(PARAPHRASE, np.zeros((2, 3)), weights, intercept, Averaged.PAPER)


def test_predictions_are_rounded_to_multiples_of_a_power_of_two() -> None:
    """So that sums are exact: each is the nearest multiple of 2^-20."""
    logits = random_outputs("paraphrase", 1)[0].astype(float)
    steps = to_predictions(PARAPHRASE, logits) * 2**20
    np.testing.assert_array_equal(steps, np.rint(logits * 2**20))


def test_the_default_transform_is_the_identity() -> None:
    assert Transform() == Transform(Averaged.PAPER, 0.0, 1.0, 0.0, 1.0)
    scores = np.array([-1.5, 0.25, 2.0])
    found = Transform(Averaged.STANDARDISED).apply(SIMILARITY, scores)
    np.testing.assert_allclose(found, scores, rtol=1e-12)
