import numpy as np
import pytest
from pools import Store

from ensemble.choice.cross_fitting import choose
from ensemble.choice.listed import find_listed, only_listed, parse_listed
from mlflow_setup.errors import ConfigError, NothingUsableError
from mlflow_setup.schema import Outcome

PAPER = {
    "sentiment": ("b1", "b2", "b3", "b4"),
    "paraphrase": ("b1", "b2"),
    "similarity": ("b1", "b2"),
}


def test_the_papers_ensemble(store: Store) -> None:
    for seed, trial in enumerate(("b1", "b2", "b3", "b4")):
        store.add_usual(trial, seed, num_epochs=2)
    given = [f"{task}={','.join(names)}" for task, names in PAPER.items()]
    found = find_listed(store.runs, parse_listed(given))
    choice = choose(only_listed(store.pool(), found), "simple")
    for name, task in choice.tasks.items():
        weights = {m.candidate.trial: m.weight for m in task.selective.members}
        assert weights == dict.fromkeys(PAPER[name], 1 / len(PAPER[name]))
        assert {m.candidate.trial for m in task.simple.members} == {"b1", "b2", "b3", "b4"}
        assert 0 < task.selective.scores.held_out < 1
        epochs = {m.candidate.trial: m.candidate for m in task.simple.members}
        assert {m.candidate for m in task.selective.members} <= set(epochs.values())


def test_a_task_that_is_not_listed_is_left_out(store: Store) -> None:
    store.add_usual("a", 1)
    found = find_listed(store.runs, {"similarity": ["runa"]})  # by its id
    pool = only_listed(store.pool(), found)
    assert list(pool.tasks) == ["similarity"]
    assert pool.tasks["similarity"].listed.all()
    assert np.array_equal(pool.tasks["similarity"].ids, sorted(store.ids("similarity")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sentiment"], "--runs sentiment: not of the form TASK=RUN,RUN"),
        (["=a"], "not of the form"),
        (["sentiment=a,"], "not of the form"),
        (["sentiment=a,a"], "a run is named twice"),
        (["sentiment=a", "sentiment=b"], "the task sentiment is named twice"),
    ],
)
def test_invalid_lists_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_listed(given)


def test_listed_runs_that_cannot_be_members_are_refused(store: Store) -> None:
    store.add_usual("a", 1)
    store.add_usual("b", 2, outcome=Outcome.FAILED, tags={"outcome_reason": "killed"})
    store.add("c", {1: {"sentiment": store.outputs("sentiment", 3)}})
    with pytest.raises(NothingUsableError, match="--runs sentiment: no run 'x'; there are a, b, c"):
        find_listed(store.runs, {"sentiment": ["x"]})
    pool = store.pool()
    for task, name, reason in (
        ("sentiment", "b", "failed: killed"),
        ("similarity", "c", "the run was not trained on this task"),
        ("mood", "a", "the run was not trained on this task"),
    ):
        with pytest.raises(NothingUsableError, match=f"--runs {task}={name}: {reason}"):
            only_listed(pool, find_listed(store.runs, {task: [name]}))


def test_an_ambiguous_name_is_refused(store: Store) -> None:
    run = store.add_usual("a", 1)
    twin = type(run)(**{**{f: getattr(run, f) for f in run.__slots__}, "run_id": "other"})
    with pytest.raises(ConfigError, match=r"sentiment: 2 runs are named 'a': s/a \(runa\), s/a \("):
        find_listed([run, twin], {"sentiment": ["a"]})
    assert find_listed([run, twin], {"sentiment": ["other"]}) == {"sentiment": [twin]}
    with pytest.raises(ConfigError, match="two runs with the same name 'a' are listed"):
        find_listed([run, twin], {"sentiment": ["runa"], "similarity": ["other"]})
