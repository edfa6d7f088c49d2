"""SMART in float64: the noise stays in its ball, finds the worst direction, and is learned from."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainable.batches.sampler import Step
from trainable.config.config import Config
from trainable.config.loss_sections import Smart
from trainable.config.parse import from_flat
from trainable.config.tasks import Kind
from trainable.data.dataset import read_dataset
from trainable.losses.smart import divergence, project, smart_penalty, worst_noise
from trainable.runtime.rng_state import dropout_state, replayed
from trainable.training.learner import Learner
from trainable.training.stages import stages_of

CPU = torch.device("cpu")


def test_divergence_is_the_symmetrised_kl_by_hand() -> None:
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
    """Half precision would round probabilities that hardly differ to the same."""
    one, other = torch.tensor([[0.2, -1.0]]), torch.tensor([[0.21, -1.0]])
    short = one.bfloat16(), other.bfloat16()
    for rounded in (short, (short[0], short[1].float()), (short[0].float(), short[1])):
        found = divergence(Kind.CLASSIFICATION, *rounded)
        assert found.dtype is torch.float32
        assert found == divergence(Kind.CLASSIFICATION, short[0].float(), short[1].float())


@pytest.mark.parametrize(
    ("norm", "place", "num_steps", "step_size"),
    list(itertools.product(["linf", "l2"], ["input", "pooled"], [1, 3], [1e-3, 1.0])),
)
def test_the_noise_never_leaves_the_ball(
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
def test_projection_leaves_what_is_inside(norm: str) -> None:
    inside = 1e-3 * torch.randn(3, 2, 4, dtype=torch.float64)
    assert torch.equal(project(inside, norm, 1.0), inside)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.PARAPHRASE, Kind.SIMILARITY])
def test_one_ascent_step_beats_a_random_direction_of_equal_norm(kind: Kind, norm: str) -> None:
    """200 random models with dropout whose masks are the same in every pass."""
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
        if norm == "linf":  # every element at the border, as the step leaves them
            drawn = drawn.sign() * noise.abs().amax(dim=(1, 2), keepdim=True)
        else:
            drawn *= (
                noise.flatten(1).norm(dim=1)[:, None, None]
                / drawn.flatten(1).norm(dim=1)[:, None, None]
            )
        worst = divergence(kind, perturbed(noise), clean)
        wins += bool(worst > divergence(kind, perturbed(drawn), clean))
    assert wins >= 190


@pytest.mark.parametrize("place", ["input", "pooled"])
@pytest.mark.parametrize("name", ["sentiment", "paraphrase", "similarity"])
def test_the_penalty_alone_reaches_the_encoder(
    name: str, place: str, tiny_encoder: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, noise and all: each weight of each layer's attention moves the penalty.

    But for the keys' bias, which shifts all scores of a query alike.
    """
    learner = _learner(tiny_encoder, tiny_data, **{"loss.smart.place": place})
    learner.model.double()
    plain = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *a, **k: plain(*a, **k, dtype=torch.float64))
    penalty, _ = _penalty(learner, name)
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


def test_without_noise_the_replayed_pass_is_the_clean_one(
    tiny_encoder: Path, tiny_data: Path
) -> None:
    """Same dropout masks: all that differs is the noise."""
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


def test_smart_changes_the_loss_and_only_of_its_tasks(tiny_encoder: Path, tiny_data: Path) -> None:
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
    only = {"loss.smart.tasks": ["sentiment"], "loss.smart.weight": 1e6}
    sentiment, similarity = losses(**only)
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


def _config(encoder: Path, data: Path, **settings: object) -> Config:
    base = {
        "data.dir": str(data),
        "model.encoder": str(encoder),
        "loss.smart.enabled": True,
        "train.precision": "fp32",
    }
    return from_flat({**base, **settings})


def _learner(encoder: Path, data: Path, **settings: object) -> Learner:
    torch.manual_seed(0)
    config = _config(encoder, data, **settings)
    learner = Learner(config, read_dataset(config))
    learner.enter(stages_of(config)[0])
    return learner


def _clean(learner: Learner, name: str):  # type: ignore[no-untyped-def]
    from trainable.batches.collate import collate

    step = Step(name, torch.arange(6).numpy())
    batch = collate(step, learner.train_tokens[name], None, learner.config.loss, (0, 1, 0))
    return batch, learner.model(batch)


def _penalty(learner: Learner, name: str) -> tuple[Tensor, Tensor]:
    batch, clean = _clean(learner, name)
    return learner.objective.smart(batch, clean, learner.model), clean.outputs


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_is_steepest_in_its_own_norm(norm: str) -> None:
    """<w, noise> grows along w: by its signs, or by its direction, sentence by sentence."""
    w = torch.tensor([[3.0, -1.0, 0.5], [0.2, 2.0, -4.0]], dtype=torch.float64)
    start, step_size = 0.01 * w, 0.3
    settings = Smart(norm=norm, num_steps=1, step_size=step_size, radius=10.0)  # type: ignore[arg-type]
    clean = torch.zeros(2, dtype=torch.float64)
    found = worst_noise(Kind.SIMILARITY, lambda noise: (w * noise).sum(1), clean, start, settings)
    direction = w.sign() if norm == "linf" else w / w.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, start + step_size * direction)
