"""The model card has the measured scores, after the hub's metadata."""

from typing import Any

import pytest
import yaml

from ensemble.bundle.format import Contents, MemberEntry, Share, TaskEntry
from ensemble.candidates.pool import Pool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.request import Request
from ensemble.choice.result import EnsembleChoice, Method
from ensemble.export.card import model_card
from ensemble.presentation.words import doubts_by_task, verdict
from ensemble.selection.combine import Averaged
from trainable.config.parse import from_flat

REQUEST = Request(("s",))


@pytest.fixture
def pool(store: Any) -> Pool:
    for number in (1, 2, 3):
        store.add_usual(f"000{number}", seed=number)
    return store.pool()


def contents(pool: Pool, choice: EnsembleChoice, encoder: str = "minilm") -> Contents:
    config = from_flat({"model.encoder": encoder}).flat()
    return Contents(
        schema_version=2,
        tasks={
            name: TaskEntry(
                task=pool.tasks[name].task,
                members=tuple(
                    Share(member=m.candidate.key, weight=m.weight, transform=m.transform)
                    for m in task.selective.members
                ),
                scores={},
                intercept=task.selective.intercept,
            )
            for name, task in choice.tasks.items()
        },
        members={
            c.key: MemberEntry(
                run_id=c.run_id, sweep="s", trial=c.trial, epoch=c.epoch, encoder="k", config=config
            )
            for c in choice.candidates(Method.SELECTIVE)
        },
    )


def test_the_card_has_the_scores_of_the_choice(pool: Pool) -> None:
    choice = choose(pool, "greedy")
    text = model_card(REQUEST, contents(pool, choice), choice)
    for name, task in choice.tasks.items():
        scores = [task.best_single.scores.held_out, task.simple.scores.held_out]
        cells = [name, task.metric, str(task.num_rows), *(f"{score:.4f}" for score in scores)]
        cells += [f"**{task.selective.scores.held_out:.4f}**"]
        cells += [f"{task.selective.scores.in_sample:.4f}"]
        assert f"| {' | '.join(cells)} |" in text.splitlines()
        for member in task.selective.members:
            line = f"| {name} | {member.weight:.3f} | `{member.candidate.key}` |"
            assert line in text.splitlines()
        doubt = doubts_by_task(choice)[name]
        assert (f"- {name}: {doubt}" in text.splitlines()) == (doubt is not None)
        gains = [task.gains[method].describe() for method in (Method.BEST_SINGLE, Method.SIMPLE)]
        assert f"| {name} | {task.rule.rule} | {' | '.join(gains)} |" in text.splitlines()
    assert f"{choice.overall[Method.SELECTIVE].held_out:.4f}" in text
    gains = [choice.gains[method].describe() for method in (Method.BEST_SINGLE, Method.SIMPLE)]
    assert f"| overall | | {' | '.join(gains)} |" in text.splitlines()
    doubt = doubts_by_task(choice)["overall"]
    assert (f"- overall: {doubt}" in text.splitlines()) == (doubt is not None)
    assert f"Verdict: {verdict(choice)}.\n" in text
    timed = model_card(REQUEST, contents(pool, choice), choice, milliseconds=1.25)
    assert ", 1.2 ms a sentence on the machine that exported it" in timed
    assert "the tracked runs of sweep s.\n" in text
    assert "The members' class probabilities, binary logits and scores are averaged.\n" in text
    assert "million parameters" not in text  # none are recorded
    assert "The hyperparameter search used all of dev" in text


def test_the_metadata_block_has_the_held_out_scores(pool: Pool) -> None:
    choice = choose(pool, "greedy")
    _, block, text = model_card(REQUEST, contents(pool, choice), choice).split("---\n", 2)
    data = yaml.safe_load(block)
    assert data["library_name"] == "ensweep"
    assert data["license"] == "unknown"
    assert data["base_model"] == ["sentence-transformers/all-MiniLM-L6-v2"]
    assert data["pipeline_tag"] == "text-classification"
    assert "sentence-transformers" in data["tags"]
    results = data["model-index"][0]["results"]
    assert {
        result["task"]["name"]: (
            result["metrics"][0]["type"],
            result["metrics"][0]["value"],
        )
        for result in results
    } == {
        name: (task.metric, round(task.selective.scores.held_out, 4))
        for name, task in choice.tasks.items()
    }
    assert text.startswith("\n# Selective ensemble of sweep s\n")


@pytest.mark.parametrize(
    ("encoder", "shown"),
    [
        ("minilm", "minilm"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("/home/somebody/encoders/mine", "mine"),
        ("./mine", "mine"),
        ("a|b<script>`", "a?b?script??"),
    ],
)
def test_the_encoder_is_named_without_its_folder(pool: Pool, encoder: str, shown: str) -> None:
    choice = choose(pool, "greedy")
    text = model_card(REQUEST, contents(pool, choice, encoder), choice)
    rows = [line for line in text.splitlines() if line.startswith("| `") and "run" in line]
    assert {row.split(" | ")[1] for row in rows} == {shown}
    assert "somebody" not in text
    assert ("base_model:" in text) == (encoder == shown)  # only names of the hub


def test_size_revision_and_licence_of_encoders_are_stated(store: Any) -> None:
    for number in (1, 2):
        store.add_usual(f"000{number}", seed=number, notes={"num_parameters": 22_700_000})
    pool = store.pool()
    choice = choose(pool, "greedy")
    count = len(choice.candidates(Method.SELECTIVE))
    of_hub = contents(pool, choice, "bert-base-uncased")
    members = {
        name: member.model_copy(update={"encoder_revision": "f" * 40})
        for name, member in of_hub.members.items()
    }
    text = model_card(REQUEST, of_hub.model_copy(update={"members": members}), choice)
    encoders = f"{count} encoder{'s' * (count > 1)}"
    assert f"run {encoders}, {22.7 * count:.1f} million parameters with the heads." in text
    assert f"| bert-base-uncased at {'f' * 12} |" in text
    assert "The encoder: bert-base-uncased apache-2.0. The training data" in text
    other = model_card(REQUEST, contents(pool, choice, "some/other"), choice)
    assert "The encoder: some/other unknown. The training data" in other


def test_a_single_model_is_not_called_an_ensemble(pool: Pool) -> None:
    choice = choose(pool, "single")
    complete = contents(pool, choice)
    (name, *_) = complete.members
    shares = {
        task: entry.model_copy(update={"members": entry.members[:1]})
        for task, entry in complete.tasks.items()
    }
    update = {"members": {name: complete.members[name]}, "tasks": shares}
    text = model_card(REQUEST, complete.model_copy(update=update), choice)
    assert "\nOne multitask BERT model, chosen by score and cost from the tracked runs of s" in text
    assert "are averaged" not in text


def test_linear_models_several_sweeps_and_listed_runs_are_described(pool: Pool) -> None:
    """Linear models of logits, of several sweeps; and runs that were listed."""
    choice = choose(pool, "stacking", averaged=Averaged.LOGITS)
    text = model_card(Request(("a", "b")), contents(pool, choice), choice)
    assert "\n# Selective ensemble of sweeps a, b\n" in text
    assert "weights for sentiment, paraphrase, similarity are the coefficients of a linear" in text
    assert "The members' logits and scores are averaged.\n" in text
    choice = choose(pool, "simple")
    listed = Request((), listed=("sentiment=0001,0002",))
    text = model_card(listed, contents(pool, choice), choice)
    assert "\n# Ensemble of listed runs\n" in text
    assert "listed, with equal weights.\n" in text
    assert "linear model" not in text


def test_the_example_is_of_the_first_task(store: Any) -> None:
    outputs = {"similarity": store.outputs("similarity", 1)}
    store.add("0001", {1: outputs})
    pool = store.pool()
    choice = choose(pool, "greedy")
    text = model_card(REQUEST, contents(pool, choice), choice)
    assert 'predict([("a sentence", "and another")], task="similarity")' in text
