"""A process that runs several trials is replaced if they leak memory or it cannot run another."""

import os
import platform
import signal
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from trainable.tune import actor_memory
from trainable.tune.actor_memory import MAX_GPU, MAX_MAIN, Leftovers, Memory, memory_used
from trainable.tune.attempt import listen
from trainable.tune.trainable import listening

MB = 1 << 20


def test_memory_that_is_not_freed_is_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_memory, "MAX_MAIN", 50 * MB)
    leftovers = Leftovers()
    assert not leftovers.has_leaked()
    kept = bytearray(os.urandom(MB) * 100)
    assert leftovers.has_leaked()
    del kept
    assert not leftovers.has_leaked()


@pytest.mark.parametrize(
    ("after_trials", "has_leaked"),
    [
        ([Memory(9 * MAX_MAIN), Memory(10 * MAX_MAIN)], [False, False]),  # libraries are no leak
        ([Memory(0), Memory(MAX_MAIN), Memory(MAX_MAIN + 1)], [False, False, True]),
        ([Memory(MAX_MAIN + 1), Memory(0), Memory(MAX_MAIN + 1)], [False, False, False]),
        ([Memory(0, MAX_GPU), Memory(0, MAX_GPU + 1)], [False, True]),
        ([Memory(0, MAX_GPU + 1)], [True]),
    ],
)
def test_main_memory_may_grow_after_the_first_trial_and_gpu_memory_must_be_free(
    monkeypatch: pytest.MonkeyPatch, after_trials: list[Memory], has_leaked: list[bool]
) -> None:
    monkeypatch.setattr(actor_memory, "memory_used", iter(after_trials).__next__)
    leftovers = Leftovers()
    assert [leftovers.has_leaked() for _ in after_trials] == has_leaked


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_no_leak() -> None:
    before = memory_used().main
    blocks = [bytearray(100_000) for _ in range(2_000)]
    kept = blocks[::50]  # between the freed ones, so that the heap cannot shrink
    del blocks
    assert memory_used().main - before < 60 * MB
    assert len(kept) == 40


@pytest.mark.parametrize(("is_initialized", "expected"), [(True, 7), (False, 0)])
def test_memory_of_a_gpu_counts_only_if_it_is_used(
    monkeypatch: pytest.MonkeyPatch, is_initialized: bool, expected: int
) -> None:
    freed: list[bool] = []
    cuda = SimpleNamespace(
        is_initialized=lambda: is_initialized,
        empty_cache=lambda: freed.append(True),
        memory_reserved=lambda: 7 if freed else 9,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert memory_used().gpu == expected
    assert memory_used().main > MB


class Base:
    """A fake of Tune's trainable."""

    ends_in_time = True

    def setup(self, config: dict[str, Any]) -> None:
        pass

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return self.ends_in_time

    def step(self) -> str:
        return "trained"


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A trainable that has run a trial; the end of its process raises SystemExit."""

    def leave() -> None:
        raise SystemExit

    monkeypatch.setattr("trainable.tune.trainable.wrap_function", lambda _: Base)
    environ: dict[str, str] = {}
    monkeypatch.setattr("trainable.tune.trainable.os", SimpleNamespace(environ=environ))
    monkeypatch.setattr("ray.actor.exit_actor", leave)
    monkeypatch.setattr(actor_memory, "memory_used", lambda: Memory(0))
    before = signal.getsignal(signal.SIGTERM)
    trial = listening(lambda config: None)()
    assert environ == {"RAY_CHDIR_TO_TRIAL_DIR": "0"}  # set before Ray creates the trial's folder
    trial.setup({})
    assert trial.step() == "trained"
    yield trial
    listen()
    signal.signal(signal.SIGTERM, before)


def test_a_process_runs_several_trials(trial: Any) -> None:
    for _ in range(3):
        assert trial.reset_config({})
        assert trial.step() == "trained"


@pytest.mark.parametrize("reason", ["memory", "it did not end in time", "SIGTERM"])
def test_a_process_that_cannot_run_another_trial_exits(
    trial: Any, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "memory":
        monkeypatch.setattr(actor_memory, "memory_used", lambda: Memory(0, MAX_GPU + 1))
    elif reason == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        monkeypatch.setattr(Base, "ends_in_time", False)
    assert trial.reset_config({})  # otherwise Tune would fail the trial
    with pytest.raises(SystemExit):
        trial.step()
