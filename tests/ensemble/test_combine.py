import numpy as np
import pytest

from ensemble.combine import average, combine, to_vote
from trainable.metrics import predicted_labels, task_metric
from trainable.tasks import PAPER_TASKS, Kind

SENTIMENT, PARAPHRASE, SIMILARITY = (
    PAPER_TASKS[name] for name in ("sentiment", "paraphrase", "similarity")
)


def random_outputs(task_name: str, num_members: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (num_members, 40, 5) if task_name == "sentiment" else (num_members, 40)
    return rng.standard_normal(shape).astype(np.float32) * 3


def test_classes_vote_with_probabilities() -> None:
    outputs = random_outputs("sentiment", 2)
    softmax = np.exp(outputs) / np.exp(outputs).sum(axis=2, keepdims=True)
    combined = combine(SENTIMENT, outputs, [0.25, 0.75])
    np.testing.assert_allclose(combined, 0.25 * softmax[0] + 0.75 * softmax[1], atol=2e-6)
    # and not with logits: one sure member outvotes two unsure ones
    logits = [np.array([[9.0, 0.0]]), *[np.array([[0.0, 2.0]])] * 2]
    assert combine(SENTIMENT, logits, [1 / 3] * 3).argmax() == 1
    assert np.mean(logits, axis=0).argmax() == 0


def test_paraphrase_votes_with_logits_and_similarity_with_scores() -> None:
    outputs = random_outputs("paraphrase", 2)
    expected = 0.25 * outputs[0].astype(float) + 0.75 * outputs[1].astype(float)
    np.testing.assert_allclose(combine(PARAPHRASE, outputs, [0.25, 0.75]), expected, atol=2e-6)
    np.testing.assert_allclose(combine(SIMILARITY, outputs, [0.25, 0.75]), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_one_member_answers_as_it_does_alone(name: str) -> None:
    task, outputs = PAPER_TASKS[name], random_outputs(name, 1)
    combined = combine(task, outputs, [1.0])
    alone = predicted_labels(task.kind, outputs[0])
    np.testing.assert_allclose(predicted_labels(task.kind, combined), alone)
    labels = np.arange(40.0) % 2
    assert task_metric(task, combined, labels) == task_metric(task, outputs[0], labels)


@pytest.mark.parametrize("num_members", [2, 3, 7, 23, 50])
def test_ties_are_ties_whatever_the_number_of_members(num_members: int) -> None:
    """k - 1 members against one that is k - 1 times as sure of the opposite."""
    weights = [1 / num_members] * num_members
    logit = to_vote(PARAPHRASE, np.array([0.3], np.float32))
    votes = np.stack([logit] * (num_members - 1) + [(1 - num_members) * logit])
    assert average(PARAPHRASE, votes, weights) == 0
    # classes 1 and 2 are equal in the mean, so the lower is the answer in any order of members
    planes = np.zeros((num_members, 1, 5))
    planes[:-1, 0, 1], planes[-1, 0, 2] = logit, -votes[-1, 0]
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
    vote = to_vote(SENTIMENT, np.array([[1e4, 0, 0, 0, -1e4]], np.float32))
    np.testing.assert_array_equal(vote, [[1, 0, 0, 0, 0]])


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
def test_weights_that_are_not_shares(num_members: int, weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(SIMILARITY, [np.zeros(3)] * num_members, weights)


def test_entailment_has_nothing_to_combine() -> None:
    assert PAPER_TASKS["nli"].kind is Kind.ENTAILMENT
    with pytest.raises(ValueError, match="entailment task has no outputs"):
        to_vote(PAPER_TASKS["nli"], np.zeros(3))
