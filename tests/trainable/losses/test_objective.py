"""The loss of a batch equals the reference in float64: every term and its weight."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from tests.helpers.encoders import write_encoder
from tests.helpers.tiny_trials import config_of, learner_of
from trainable.batches.collate import Batch
from trainable.batches.sampler import Step
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind
from trainable.losses.objective import Objective
from trainable.model.heads import HeadOutput

SIZE, WIDTH = 5, 4
ALL_TASKS = ["sentiment", "paraphrase", "similarity", "nli"]
LABELS = {
    "sentiment": [0.0, 4.0, 2.0, 2.0, 1.0],
    "paraphrase": [1.0, 0.0, 1.0, 1.0, 0.0],
    "similarity": [0.0, 5.0, 2.5, 4.0, 1.2],
    "nli": None,
}
MNR: dict[str, Any] = {
    "loss.mnr.enabled": True,
    "loss.mnr.weight": 3.0,
    "loss.mnr.tasks": ["paraphrase", "similarity"],
    "loss.mnr.scale": 2.0,
}
SIMCSE: dict[str, Any] = {"loss.simcse.enabled": True, "loss.simcse.weight": 7.0}


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _objective(settings: dict[str, Any]) -> Objective:
    enabled = {"loss.mnr.enabled": True}  # entailment needs it
    return Objective(from_flat({"data.tasks": ALL_TASKS} | enabled | settings))


def _batch(name: str, **changes: Any) -> tuple[Batch, HeadOutput]:
    """A batch, and random outputs and task embeddings of its sides."""
    given = LABELS[name]
    labels = None if given is None else torch.tensor(given, dtype=torch.float64)
    num_sides = 1 if name == "sentiment" else 2
    sizes = (SIZE,) * num_sides
    batch = Batch(name, np.arange(SIZE * num_sides), sizes, labels, None, None, 0)
    outputs = _random(SIZE, 5) if name == "sentiment" else _random(SIZE)
    z = tuple(_random(SIZE, WIDTH, seed=side) for side in range(num_sides))
    return replace(batch, **changes), HeadOutput(outputs, z)


def _task_loss(name: str, outputs: Tensor, labels: Tensor) -> Tensor:
    loss = {
        "sentiment": reference.cross_entropy,
        "paraphrase": reference.binary_cross_entropy,
        "similarity": reference.squared_error,
    }[name]
    return loss(outputs, labels)


def _soft(name: str, outputs: Tensor, teacher: Tensor) -> Tensor:
    if name == "sentiment":
        return reference.soft_cross_entropy(outputs, teacher)
    if name == "paraphrase":
        return reference.binary_cross_entropy(outputs, 1 / (1 + (-teacher).exp()))
    return reference.squared_error(outputs, teacher)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    assert found.shape == ()
    return bool(torch.isclose(found.double(), expected, rtol=1e-12, atol=0))


@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_the_task_loss_is_rescaled_for_paraphrases(name: str, weight: float) -> None:
    batch, output = _batch(name)
    assert batch.labels is not None
    expected = _task_loss(name, output.outputs, batch.labels)
    expected = weight * expected if name == "paraphrase" else expected
    objective = _objective({"loss.mnr.tasks": [], "loss.paraphrase_weight": weight})
    assert _is_close(objective.without_smart(batch, output), expected)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_ranking_is_added_with_its_weight_to_its_tasks(name: str, similarity: str) -> None:
    """It is not rescaled; similarity pairs are weighted by grade, paraphrases are the positives."""
    batch, output = _batch(name)
    assert batch.labels is not None
    task_loss = _task_loss(name, output.outputs, batch.labels)
    task_loss = 0.1 * task_loss if name == "paraphrase" else task_loss
    added = torch.zeros((), dtype=torch.float64)
    if name != "sentiment":
        form = reference.positive_ranking if name == "paraphrase" else reference.weighted_ranking
        added = form(*output.embeddings, batch.labels, similarity, 2.0)
    settings = MNR | {"loss.mnr.similarity": similarity, "loss.paraphrase_weight": 0.1}
    assert _is_close(_objective(settings).without_smart(batch, output), task_loss + 3 * added)
    for off in ({"loss.mnr.enabled": False, "data.tasks": ALL_TASKS[:3]}, {"loss.mnr.tasks": []}):
        objective = _objective(settings | off)
        assert _is_close(objective.without_smart(batch, output), task_loss)


def test_scores_on_another_scale_are_ranked_by_the_papers_grades() -> None:
    task = {"kind": "similarity", "max_score": 1.0, "files": {"train": "a", "dev": "b"}}
    settings = {"data.tasks": ["sick"], "tasks": {"sick": task}, "loss.mnr.tasks": ["sick"]}
    objective = Objective(from_flat(MNR | settings))
    batch, output = _batch("similarity", task_name="sick")
    assert batch.labels is not None
    batch = replace(batch, labels=batch.labels / 5)
    expected = reference.squared_error(output.outputs, batch.labels)
    graded = reference.weighted_ranking(*output.embeddings, 5 * batch.labels, "cosine", 2.0)
    assert _is_close(objective.without_smart(batch, output), expected + 3 * graded)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_simcse_compares_each_row_with_its_second_view(name: str, similarity: str) -> None:
    """In a pair, the side that is repeated differs by row."""
    view_of = torch.tensor([0, 1, 1, 0, 1]) if name != "sentiment" else torch.zeros(SIZE).long()
    batch, output = _batch(name, view_of=view_of)
    assert batch.labels is not None
    view = _random(SIZE, WIDTH, seed=9)
    expected = _task_loss(name, output.outputs, batch.labels) + 7 * reference.simcse(
        output.embeddings, view, view_of, similarity, 0.5
    )
    settings = SIMCSE | {
        "loss.simcse.similarity": similarity,
        "loss.simcse.temperature": 0.5,
        "loss.mnr.tasks": [],
    }
    output = output._replace(embeddings=(*output.embeddings, view))
    assert _is_close(_objective(settings).without_smart(batch, output), expected)


@pytest.mark.parametrize("num_negatives", [0, 3])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_loss_of_entailment_is_ranking_alone(similarity: str, num_negatives: int) -> None:
    batch, output = _batch("nli", num_negatives=num_negatives)
    negatives = [*_random(num_negatives, WIDTH, seed=5)]
    if negatives:
        output = output._replace(embeddings=(*output.embeddings, torch.stack(negatives)))
    settings = MNR | {"loss.mnr.similarity": similarity}
    expected = reference.ranking_terms(*output.embeddings[:2], similarity, 2.0, negatives).mean()
    assert _is_close(_objective(settings).without_smart(batch, output), expected)


@pytest.mark.parametrize("weight", [0.4, 1.0])
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_the_distillation_loss_is_mixed_in_or_added_and_ranking_is_not_scaled(
    name: str, weight: float
) -> None:
    batch, output = _batch(name)
    assert batch.labels is not None
    teacher = _random(*output.outputs.shape, seed=4)
    batch = replace(batch, soft_labels=teacher)
    settings = MNR | {
        "distill.enabled": True,
        "distill.weight": weight,
        "loss.paraphrase_weight": 0.1,
        "loss.mnr.tasks": ["similarity"],
    }
    hard = _task_loss(name, output.outputs, batch.labels)
    added = torch.zeros((), dtype=torch.float64)
    if name == "similarity":
        added = 3 * reference.weighted_ranking(*output.embeddings, batch.labels, "cosine", 2.0)
    rescaled = 0.1 if name == "paraphrase" else 1.0
    mixed = reference.distilled(hard, _soft(name, output.outputs, teacher), weight)
    objective = _objective(settings)
    assert _is_close(objective.without_smart(batch, output), rescaled * mixed + added)
    other = _random(*output.outputs.shape, seed=6)
    summed = hard + weight * _soft(name, other, teacher)
    found = objective.without_smart(batch, output._replace(distilled=other))
    assert _is_close(found, rescaled * summed + added)


@pytest.mark.parametrize(
    ("name", "settings", "is_frozen", "expected"),
    [
        ("sentiment", {}, False, True),
        ("similarity", {}, False, True),
        ("nli", {}, False, False),
        ("sentiment", {"loss.smart.enabled": False}, False, False),
        ("sentiment", {"loss.smart.tasks": ["sentiment"]}, False, True),
        ("similarity", {"loss.smart.tasks": ["sentiment"]}, False, False),
        ("sentiment", {}, True, False),
        ("sentiment", {"loss.smart.place": "pooled"}, True, True),
    ],
)
def test_smart_is_added_with_its_weight_to_its_tasks(
    name: str,
    settings: dict[str, Any],
    is_frozen: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not with noise at the input of a frozen encoder."""
    objective = _objective({"loss.smart.enabled": True, "loss.smart.weight": 11.0} | settings)
    penalty = torch.tensor(0.25, dtype=torch.float64)
    monkeypatch.setattr(objective, "smart", lambda *given: penalty)
    model: Any = SimpleNamespace(is_encoder_frozen=is_frozen)
    batch, output = _batch(name)
    assert objective.has_smart(name, model) is expected
    plain = objective.without_smart(batch, output)
    assert _is_close(objective(batch, output, model), plain + (11 * penalty if expected else 0))


@pytest.mark.parametrize("place", ["input", "pooled"])
def test_smart_compares_outputs_and_has_noise_of_the_right_shape(
    place: str, tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALBERT's token embeddings are narrower than its states. Zero noise gives the same outputs,
    because the dropout masks are repeated."""
    encoder = write_encoder(tmp_path / "albert", "albert")
    on = ["loss.smart.enabled=true", f"loss.smart.place={place}", "loss.simcse.enabled=false"]
    learner = learner_of(config_of(encoder, tiny_data, "model.pooling=mean", *on))
    (batch,) = learner.batches([Step("similarity", np.arange(8))], 1)
    output = learner.model(batch)
    given: dict[str, Any] = {}

    def penalty(kind: Kind, perturbed: Any, clean: Tensor, start: Tensor, settings: Any) -> Tensor:
        given.update(kind=kind, clean=clean, start=start, settings=settings)
        given["unperturbed"] = perturbed(torch.zeros_like(start))
        return clean.sum()

    monkeypatch.setattr("trainable.losses.objective.smart_penalty", penalty)
    found = learner.objective.smart(batch, output, learner.model)
    assert given["kind"] is Kind.SIMILARITY
    assert given["clean"] is output.outputs
    assert given["settings"] == learner.config.loss.smart
    torch.testing.assert_close(given["unperturbed"], output.outputs)
    assert torch.equal(found, output.outputs.sum())
    assert batch.packed is not None
    assert 0 < given["start"].abs().max() < 10 * learner.config.loss.smart.init_std
    longest = int(batch.packed.lengths.max())
    assert list(given["start"].shape) == ([16, longest, 8] if place == "input" else [16, 16])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL_TASKS)
def test_losses_of_half_precision_outputs_are_computed_in_float32(
    name: str, dtype: torch.dtype
) -> None:
    batch, output = _batch(name)
    batch = replace(batch, labels=batch.labels if batch.labels is None else batch.labels.float())
    rounded = HeadOutput(output.outputs.to(dtype), tuple(z.to(dtype) for z in output.embeddings))
    exact = HeadOutput(rounded.outputs.double(), tuple(z.double() for z in rounded.embeddings))
    objective = _objective(MNR)
    found = objective.without_smart(batch, rounded)
    assert found.dtype is torch.float32
    assert float(found) == pytest.approx(float(objective.without_smart(batch, exact)), rel=1e-5)
