"""A learner's losses, gradients, steps and rates equal the reference's in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from learners import ROWS, new_batch, new_learner
from reference import drop_known_masks, every_third_dropped
from safetensors.torch import save_file
from tiny_trials import config_of, learner_of
from torch import Tensor

from trainable.batches.collate import Batch
from trainable.batches.sampler import Step
from trainable.model.compilation import CompileTiming
from trainable.model.weight_files import WEIGHTS_FILE
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

TASKS = ("sentiment", "paraphrase", "similarity")


WEIGHTS = (
    *("loss.mnr.weight=3", "loss.simcse.weight=7", "loss.paraphrase_weight=0.1"),
    *("loss.mnr.scale=2", "model.encoder_dropout=0", "model.head_dropout=0.3"),
)


@pytest.fixture
def known_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.functional.dropout", drop_known_masks)


def _parameters(learner: Learner, prefix: str) -> dict[str, Tensor]:
    named = learner.model.named_parameters()
    return {name[len(prefix) :]: value for name, value in named if name.startswith(prefix)}


def _reference_loss(learner: Learner, batch: Batch) -> Tensor:
    """The loss of b3: shared layers, non-linear heads, paraphrase structure, MNR and SimCSE."""
    assert batch.packed is not None
    assert batch.labels is not None
    drop = every_third_dropped(0.3)
    e = torch.split(learner.model.embed(batch.packed), list(batch.sizes))
    s = [reference.shared(_parameters(learner, "shared."), side, drop) for side in e]
    head, labels = _parameters(learner, f"heads.{batch.task_name}."), batch.labels.double()
    if batch.task_name == "sentiment":
        logits, _ = reference.classes(head, e[0], s[0], nonlinear=True, drop=drop)
        return reference.cross_entropy(logits, labels)
    if batch.task_name == "paraphrase":
        logit, _ = reference.structured_logit(head, e, s, drop=drop)
        return 0.1 * reference.binary_cross_entropy(logit, labels)
    score, z = reference.similarity_score(head, e, s, 5.0, drop=drop)
    assert batch.view_of is not None
    ranked = reference.weighted_ranking(z[0], z[1], labels, "cosine", 2.0)
    viewed = reference.simcse(z[:2], z[2], batch.view_of, "dot", 0.05)
    return reference.squared_error(score, labels) + 3 * ranked + 7 * viewed


@pytest.mark.usefixtures("known_masks")
@pytest.mark.parametrize("task", TASKS)
def test_loss_and_gradients_equal_the_references(
    task: str, tiny_encoder: Path, tiny_data: Path
) -> None:
    learner = new_learner(tiny_encoder, tiny_data, *WEIGHTS)
    batch = new_batch(learner, task)
    found, expected = learner.loss(batch), _reference_loss(learner, batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    names, parameters = zip(*learner.model.named_parameters(), strict=True)
    ours, theirs = (
        torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (found, expected)
    )
    compared = 0
    for name, one, other in zip(names, ours, theirs, strict=True):
        assert (one is None) == (other is None), name
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=name)
            compared += 1
    assert compared > 30


@pytest.mark.parametrize(
    ("overrides", "rates"),
    [
        (("optim.lr_decay=0",), [1e-3] * 8),
        (
            ("optim.lr_decay=0.8",),
            [reference.learning_rate(1e-3, 0.8, epoch, 4) for epoch in (1, 2, 3, 4) for _ in "ab"],
        ),
        (
            ("optim.lr_decay=0.8", "optim.warmup_steps=12"),
            [
                (1 / 12) * 1e-3,
                (2 / 12) * 1e-3,
                (10 / 12) * 0.8e-3,
                (11 / 12) * 0.8e-3,
                *[0.6e-3] * 2,
                *[0.4e-3] * 2,
            ],
        ),
        (
            ("train.stages=[probe, finetune]", "probe.num_epochs=2", "probe.lr=1e-2"),
            [*[1e-2] * 4, *[1e-3] * 2, *[0.8e-3] * 2],
        ),
        (
            ("train.stages=[finetune, swa]", "train.num_epochs=1", "swa.lr=1e-4"),
            [*[1e-3] * 2, *[1e-4] * 6],
        ),
    ],
    ids=["constant", "decay", "warm-up", "probe", "swa"],
)
def test_steps_have_the_learning_rate_of_their_epoch(
    overrides: tuple[str, ...], rates: list[float], tiny_encoder: Path, tiny_data: Path
) -> None:
    """The first two of nine steps are taken in each of four epochs."""
    learner = learner_of(config_of(tiny_encoder, tiny_data, "train.num_epochs=4", *overrides))
    assert learner.num_steps == 9
    found: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        found.append(rate)

    for stage in stages_of(learner.config):
        learner.enter(stage)
        learner.optimizer.register_step_pre_hook(note)
        last = min(4, stage.first_epoch + stage.num_epochs - 1)
        for epoch in range(stage.first_epoch, last + 1):
            for number in (0, 1):
                learner.step(new_batch(learner, "sentiment"), epoch, number)
    assert found == pytest.approx(rates, rel=1e-12)


@pytest.mark.usefixtures("known_masks")
@pytest.mark.parametrize("clip", [None, 1e-2])
def test_steps_equal_adamw_computed_by_hand(
    clip: float | None, tiny_encoder: Path, tiny_data: Path
) -> None:
    """Weight decay of matrices only; gradients are clipped by their norm, and deleted."""
    limit = "null" if clip is None else str(clip)
    learner = new_learner(
        *(tiny_encoder, tiny_data, *WEIGHTS, "optim.weight_decay=0.1", "optim.lr_decay=0.8"),
        f"optim.max_grad_norm={limit}",
    )
    before = {name: value.detach().clone() for name, value in learner.model.named_parameters()}
    gradients: dict[str, list[Tensor]] = {name: [] for name in before}
    for epoch in (1, 2):
        batch = new_batch(learner, "similarity")
        loss = _reference_loss(learner, batch)
        named = dict(learner.model.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        norm = torch.stack([g.norm() for g in found if g is not None]).norm()
        assert clip is None or norm > clip
        share = 1.0 if clip is None else float(clip / (norm + 1e-6))
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                gradients[name].append(share * gradient)
        returned = learner.step(batch, epoch, 0)
        assert returned.item() == pytest.approx(loss.item(), rel=1e-10)
        assert not returned.requires_grad
        assert all(value.grad is None for value in learner.model.parameters())
    rates = [reference.learning_rate(1e-3, 0.8, epoch, 2) for epoch in (1, 2)]
    for name, value in learner.model.named_parameters():
        steps = gradients[name]
        decay = 0.1 if value.ndim >= 2 else 0.0
        expected = reference.adamw(before[name], steps, rates, decay) if steps else before[name]
        if name.endswith("key.bias"):  # its gradient is rounding error
            continue
        torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-8, msg=name)


def test_batches_follow_the_plan_from_any_step_on(tiny_encoder: Path, tiny_data: Path) -> None:
    learner = new_learner(tiny_encoder, tiny_data)
    plan = [Step(task, ROWS[start : start + 2]) for task in TASKS for start in (0, 2)]
    batches = list(learner.batches(plan, 1))
    assert [batch.task_name for batch in batches] == [step.task_name for step in plan]
    for step, batch in zip(plan, batches, strict=True):
        assert batch.sentences[:2].tolist() == step.rows.tolist()
        labels = learner.train_tokens[step.task_name].labels
        assert labels is not None
        assert batch.labels is not None
        assert batch.labels.tolist() == labels[step.rows].tolist()
    later = list(learner.batches(plan, 1, 3))
    assert [batch.sentences.tolist() for batch in later] == [
        batch.sentences.tolist() for batch in batches[3:]
    ]


def test_the_average_is_evaluated_once_there_is_one(tiny_encoder: Path, tiny_data: Path) -> None:
    config = config_of(
        tiny_encoder, tiny_data, "train.stages=[finetune, swa]", "train.num_epochs=1", "swa.lr=0.1"
    )
    learner = learner_of(config)
    learner.end_epoch()
    assert learner.average is None
    assert learner.scored_model is learner.model
    learner.enter(stages_of(config)[1])
    assert learner.scored_model is learner.model
    before = learner.dev_outputs()
    weights = []
    for number in (0, 1):
        learner.step(new_batch(learner, "sentiment"), 2, number)
        learner.end_epoch()
        weights.append(learner.model.heads["sentiment"].out.weight.detach().double().clone())
    mean = torch.stack(weights).mean(0)
    found = learner.scored_model.heads["sentiment"].out.weight.double()
    torch.testing.assert_close(found, mean, rtol=1e-5, atol=1e-5)
    outputs = learner.dev_outputs()
    assert {name: values.shape for name, values in outputs.items()} == {
        "sentiment": (32, 5),
        "paraphrase": (32,),
        "similarity": (32,),
    }
    assert abs(outputs["sentiment"] - before["sentiment"]).max() > 1e-3


@pytest.mark.parametrize("cache", [False, True])
def test_a_probe_trains_the_heads_only_on_cached_embeddings_if_enabled(
    cache: bool, tiny_encoder: Path, tiny_data: Path
) -> None:
    learner = learner_of(
        config_of(tiny_encoder, tiny_data, "train.stages=[probe]", f"probe.cache={cache}".lower())
    )
    assert {split: set(found) for split, found in learner.embeddings.items()} == (
        {"train": set(TASKS), "dev": set(TASKS)} if cache else {"train": set(), "dev": set()}
    )
    (batch,) = learner.batches([Step("similarity", ROWS)], 1)
    assert (batch.embeddings is not None, batch.packed is None) == (cache, cache)
    assert not any(value.requires_grad for value in learner.model.encoder.parameters())
    assert not learner.model.encoder.training
    before = learner.model.encoder.state_dict()["embeddings.word_embeddings.weight"].clone()
    learner.step(batch, 1, 0)
    after = learner.model.encoder.state_dict()["embeddings.word_embeddings.weight"]
    assert torch.equal(before, after)
    learner.dev_outputs()
    assert (learner.ms_per_sentence is None) == cache  # cached embeddings are not timed


@pytest.mark.parametrize(("wanted", "is_compiled"), [("never", False), ("always", True)])
def test_layers_are_compiled_if_set(
    wanted: str,
    is_compiled: bool,
    tiny_encoder: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr("trainable.training.learner.compile_layers", compiled.append)
    learner = learner_of(config_of(tiny_encoder, tiny_data, f"train.compile={wanted}"))
    assert compiled == ([learner.model.encoder] if is_compiled else [])


def test_auto_compilation_is_timed_without_leaving_gradients(
    tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients: list[set[bool]] = []

    def compile_if_faster(encoder: object, passes: Callable[[], None], *_: object) -> CompileTiming:
        passes()
        gradients.append({parameter.grad is None for parameter in encoder.parameters()})  # type: ignore[attr-defined]
        return CompileTiming(1.0, 2.0, 1.0)

    monkeypatch.setattr("trainable.training.learner.can_compile", lambda *_: True)
    monkeypatch.setattr("trainable.training.learner.compile_if_faster", compile_if_faster)
    learner = learner_of(config_of(tiny_encoder, tiny_data, "train.compile=auto"))
    assert gradients == [{True}]
    assert [note for note in learner.notes if "2.00 times as fast compiled" in note]


def test_weights_are_loaded_from_a_folder(
    tiny_encoder: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = learner_of(config_of(tiny_encoder, tiny_data, "seed=1"))
    save_file(first.model.state_dict(), tmp_path / WEIGHTS_FILE)
    second = learner_of(config_of(tiny_encoder, tiny_data, "seed=2"))
    second.load_weights(tmp_path)
    kept = first.model.state_dict()
    assert all(torch.equal(kept[name], found) for name, found in second.model.state_dict().items())


def test_tasks_with_smart_are_computed_in_float32(tiny_encoder: Path, tiny_data: Path) -> None:
    """The penalty is a small difference, which half precision would round to 0."""
    config = config_of(
        *(tiny_encoder, tiny_data, "loss.smart.enabled=true", "train.precision=bf16"),
        "loss.smart.tasks=[sentiment]",
    )
    learner = learner_of(config)
    for name, expected in (("sentiment", torch.float32), ("paraphrase", torch.bfloat16)):
        seen: set[torch.dtype] = set()
        learner.model.heads[name].register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.add(output.outputs.dtype)
        )
        (batch,) = learner.batches([Step(name, ROWS)], 1)
        learner.loss(batch)
        assert seen == {expected}
