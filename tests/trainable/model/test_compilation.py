"""Compiled layers give the same results, and are used only if they are faster."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny_trials import NO_DROPOUT, config_of, learner_of
from torch import nn

from trainable.batches.sampler import plan_epoch
from trainable.model import compilation as compiling
from trainable.model.compilation import (
    CompileTiming,
    can_compile,
    compile_if_faster,
    compile_layers,
    uncompile_layers,
)
from trainable.model.encoder import load_pretrained

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def encoder(tiny_encoder: Path) -> nn.Module:
    return load_pretrained(str(tiny_encoder), None, 0.0, "pooler")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ENSWEEP_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    yield
    torch.compiler.reset()


def _is_compiled(encoder: nn.Module) -> bool:
    found = {layer._compiled_call_impl is not None for layer in encoder.encoder.layer}
    assert len(found) == 1
    return found.pop()


def _clock(monkeypatch: pytest.MonkeyPatch, encoder: nn.Module, ratio: float) -> Callable[[], None]:
    """Passes that take a second on a fake clock, or `ratio` seconds once compiled."""
    now = [0.0]
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: now[0])

    def run() -> None:
        now[0] += ratio if _is_compiled(encoder) else 1.0

    return run


@pytest.mark.parametrize(
    ("device", "wanted", "expected"),
    [
        (CPU, "auto", False),
        (CPU, "always", True),
        (CPU, "never", False),
        (CUDA, "auto", True),
        (CUDA, "never", False),
    ],
)
def test_auto_compiles_on_gpus_only(
    encoder: nn.Module, device: torch.device, wanted: str, expected: bool
) -> None:
    assert can_compile(encoder, device, wanted) is expected


@pytest.mark.parametrize(("ratio", "is_kept"), [(0.5, True), (1.0, False), (3.0, False)])
def test_compiled_layers_are_used_only_if_they_are_faster(
    encoder: nn.Module, monkeypatch: pytest.MonkeyPatch, ratio: float, is_kept: bool
) -> None:
    run = _clock(monkeypatch, encoder, ratio)
    found = compile_if_faster(encoder, run, "a test", backend="eager")
    assert (found.eager_seconds, found.compiled_seconds) == (1.0, ratio)
    assert found.is_faster is is_kept
    assert _is_compiled(encoder) is is_kept


def test_timings_are_cached(encoder: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_if_faster(encoder, _clock(monkeypatch, encoder, 0.5), "a test", backend="eager")
    uncompile_layers(encoder)

    def never() -> None:
        raise AssertionError("measured again")

    assert compile_if_faster(encoder, never, "a test", backend="eager") == first
    assert _is_compiled(encoder)
    with pytest.raises(AssertionError, match="measured again"):
        compile_if_faster(encoder, never, "another test", backend="eager")


def test_a_timing_is_described() -> None:
    timing = CompileTiming(12.34, 3.0, 2.0)
    assert timing.describe() == "1.50 times as fast compiled, 12.3 s to compile"


def test_compiled_layers_give_the_same_losses(tiny_encoder: Path, tiny_data: Path) -> None:
    """The traced graph, without dropout, for batches of any number of tokens."""
    found = []
    for is_compiled in (False, True):
        learner = learner_of(config_of(tiny_encoder, tiny_data, *NO_DROPOUT))
        if is_compiled:
            compile_layers(learner.model.encoder, backend="eager")
        lengths = {name: encoded.lengths for name, encoded in learner.train_tokens.items()}
        plan = plan_epoch(lengths, learner.config.batching, 0, 1)[:5]
        batches = enumerate(learner.batches(plan, 1))
        found.append([float(learner.step(batch, 1, number)) for number, batch in batches])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
