"""SMART in float64: the noise stays in its ball, increases the divergence, and has gradients."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_trials import learner_of
from torch import Tensor, nn

from trainable.batches.collate import Batch, collate
from trainable.batches.sampler import Step
from trainable.config.loss_sections import Smart
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind
from trainable.losses.smart import divergence, project, smart_penalty, worst_noise
from trainable.model.heads import HeadOutput
from trainable.runtime.rng_state import dropout_state, replayed
from trainable.training.learner import Learner

CPU = torch.device("cpu")


def test_divergence_is_the_symmetrized_kl_computed_by_hand() -> None:
    one, other = [0.2, -1.0, 0.5], [1.0, 0.0, -0.3]

    def softmax(z: list[float]) -> list[float]:
        total = sum(math.exp(value) for value in z)
        return [math.exp(value) / total for value in z]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    p, q = softmax(one), softmax(other)
    actual = divergence(Kind.CLASSIFICATION, _rows(one), _rows(other))
    assert actual.item() == pytest.approx(kl(p, q) + kl(q, p), rel=1e-12)

    a, b = 1 / (1 + math.exp(-0.7)), 1 / (1 + math.exp(1.1))
    actual = divergence(Kind.PARAPHRASE, _values(0.7), _values(-1.1))
    assert actual.item() == pytest.approx(kl([a, 1 - a], [b, 1 - b]) + kl([b, 1 - b], [a, 1 - a]))

    actual = divergence(Kind.SIMILARITY, _values(1.0, 4.0), _values(2.0, 2.0))
    assert actual.item() == (1 + 4) / 2


def test_divergence_is_computed_in_float32() -> None:
    """In half precision, similar probabilities would be equal."""
    one, other = torch.tensor([[0.2, -1.0]]).bfloat16(), torch.tensor([[0.21, -1.0]]).bfloat16()
    expected = divergence(Kind.CLASSIFICATION, one.float(), other.float())
    for pair in ((one, other), (one, other.float()), (one.float(), other)):
        found = divergence(Kind.CLASSIFICATION, *pair)
        assert found.dtype is torch.float32
        assert found == expected


@pytest.mark.parametrize(
    ("norm", "place", "num_steps", "step_size"),
    list(itertools.product(["linf", "l2"], ["input", "pooled"], [1, 3], [1e-3, 1.0])),
)
def test_the_noise_stays_in_the_ball(
    norm: str, place: str, num_steps: int, step_size: float
) -> None:
    settings = _smart(norm=norm, num_steps=num_steps, step_size=step_size, radius=1e-2)
    shape = (4, 5, 8) if place == "input" else (4, 8)
    seen: list[Tensor] = []
    model = _RandomModel(0, shape)

    def perturbed(noise: Tensor) -> Tensor:
        seen.append(noise)
        return model(noise)

    start = 100 * torch.randn(shape, dtype=torch.float64)
    smart_penalty(Kind.CLASSIFICATION, perturbed, model(torch.zeros(shape)), start, settings)
    assert len(seen) == num_steps + 1
    for noise in seen:
        flat = noise.detach().reshape(4, -1)
        lengths = flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)
        assert (lengths <= 1e-2 * (1 + 1e-12)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_does_not_change_noise_inside_the_ball(norm: str) -> None:
    inside = 1e-3 * torch.randn(3, 2, 4, dtype=torch.float64)
    assert torch.equal(project(inside, norm, 1.0), inside)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.PARAPHRASE, Kind.SIMILARITY])
def test_an_ascent_step_increases_the_divergence_more_than_random_noise(
    kind: Kind, norm: str
) -> None:
    """The noise has the same norm. 200 random models with the same dropout masks in every pass."""
    settings = _smart(norm=norm)
    shape = (4, 5, 8)
    wins = 0
    for seed in range(200):
        model = _RandomModel(seed, shape, kind)
        masks = dropout_state(CPU)

        def perturbed(noise: Tensor, model: nn.Module = model, masks: Tensor = masks) -> Tensor:
            with replayed(masks, CPU):
                return model(noise)

        clean = perturbed(torch.zeros(shape, dtype=torch.float64)).detach()
        start = settings.init_std * torch.randn(shape, dtype=torch.float64)
        noise = worst_noise(kind, perturbed, clean, start, settings)
        drawn = torch.randn(shape, dtype=torch.float64)
        if norm == "linf":  # every element has the largest absolute value, as after a step
            drawn = drawn.sign() * noise.abs().amax(dim=(1, 2), keepdim=True)
        else:
            drawn *= noise.norm(dim=(1, 2), keepdim=True) / drawn.norm(dim=(1, 2), keepdim=True)
        worst = divergence(kind, perturbed(noise), clean)
        wins += bool(worst > divergence(kind, perturbed(drawn), clean))
    assert wins >= 190


@pytest.mark.parametrize("place", ["input", "pooled"])
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_the_penalty_has_gradients_in_the_encoder(
    name: str, place: str, tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All attention weights have gradients, except the keys' bias: it adds the same number to all
    scores of a query."""
    learner = _learner(tiny_encoder, tiny_data, **{"loss.smart.place": place})
    learner.model.double()
    plain = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: plain(*a, **k, dtype=torch.float64))
    penalty = learner.objective.smart(*_clean(learner, name), learner.model)
    penalty.backward()
    assert penalty.dtype is torch.float64
    gradients = {
        key: parameter.grad
        for key, parameter in learner.model.encoder.named_parameters()
        if "attention" in key and not key.endswith("key.bias")
    }
    assert len(gradients) == 2 * 9
    for key, gradient in gradients.items():
        assert gradient is not None, key
        assert gradient.dtype is torch.float64
        assert gradient.abs().max() > 0, key


def test_replaying_repeats_the_dropout_masks_and_restores_the_generator(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    learner = _learner(tiny_encoder, tiny_data, **{"model.encoder_dropout": 0.5})
    learner.model.double()
    for name in ("sentiment", "paraphrase", "similarity"):
        batch, clean = _clean(learner, name)
        after = torch.get_rng_state()
        with replayed(clean.rng_state, CPU):
            again = learner.model(batch)
        torch.testing.assert_close(again.outputs, clean.outputs, rtol=0, atol=1e-10)
        assert torch.equal(torch.get_rng_state(), after)
        other = learner.model(batch)
        assert not torch.allclose(other.outputs, clean.outputs, atol=1e-3)


def test_smart_increases_the_loss_of_its_tasks_only(tiny_encoder: Path, tiny_data: Path) -> None:
    def losses(**settings: object) -> list[float]:
        learner = _learner(tiny_encoder, tiny_data, **settings)
        steps = [Step(name, torch.arange(4).numpy()) for name in ("sentiment", "similarity")]
        found = []
        for batch in learner.batches(steps, 1):
            torch.manual_seed(1)
            learner.model.load_state_dict(_learner(tiny_encoder, tiny_data).model.state_dict())
            found.append(float(learner.step(batch, 1, 0)))
        return found

    plain = losses(**{"loss.smart.enabled": False})
    with_smart = {"loss.smart.tasks": ["sentiment"], "loss.smart.weight": 1e6}
    sentiment, similarity = losses(**with_smart)
    assert sentiment > plain[0]
    assert similarity == plain[1]


def _smart(**settings: object) -> Smart:
    return Smart.model_validate({"enabled": True, **settings})


def _rows(z: list[float]) -> Tensor:
    return torch.tensor([z, z], dtype=torch.float64)


def _values(*z: float) -> Tensor:
    return torch.tensor(z, dtype=torch.float64)


class _RandomModel(nn.Module):
    """A random network with dropout over four sentences, in float64."""

    def __init__(self, seed: int, shape: tuple[int, ...], kind: Kind = Kind.CLASSIFICATION) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.kind = kind
        self.x = torch.randn(shape, dtype=torch.float64)
        width = 5 if kind is Kind.CLASSIFICATION else 1
        size = math.prod(shape[1:])
        self.layers: Callable[[Tensor], Tensor] = nn.Sequential(
            nn.Linear(size, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, width)
        ).double()

    def forward(self, noise: Tensor) -> Tensor:
        out = self.layers((self.x + noise).flatten(1))
        return out if self.kind is Kind.CLASSIFICATION else out.squeeze(-1)


def _learner(encoder: Path, data: Path, **settings: object) -> Learner:
    base = {
        "data.dir": str(data),
        "model.encoder": str(encoder),
        "loss.smart.enabled": True,
        "train.precision": "fp32",
    }
    return learner_of(from_flat({**base, **settings}))


def _clean(learner: Learner, name: str) -> tuple[Batch, HeadOutput]:
    """A batch and its outputs without noise."""
    step = Step(name, torch.arange(6).numpy())
    batch = collate(step, learner.train_tokens[name], None, learner.config.loss, (0, 1, 0))
    return batch, learner.model(batch)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_follows_the_steepest_direction_of_its_norm(norm: str) -> None:
    """<w, noise> grows fastest along the signs of w in linf, and along w in l2."""
    w = torch.tensor([[3.0, -1.0, 0.5], [0.2, 2.0, -4.0]], dtype=torch.float64)
    start, step_size = 0.01 * w, 0.3
    settings = Smart(norm=norm, num_steps=1, step_size=step_size, radius=10.0)  # type: ignore[arg-type]
    clean = torch.zeros(2, dtype=torch.float64)
    found = worst_noise(Kind.SIMILARITY, lambda noise: (w * noise).sum(1), clean, start, settings)
    direction = w.sign() if norm == "linf" else w / w.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, start + step_size * direction)
