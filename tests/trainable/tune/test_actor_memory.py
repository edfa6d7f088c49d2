"""A process that runs trial after trial is left when too much of them stays, or it must end."""

import os
import signal
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from trainable.tune import actor_memory as memory
from trainable.tune.actor_memory import MAX_GPU, MAX_MAIN, Leftovers, Memory, memory_used
from trainable.tune.attempt import listen
from trainable.tune.trainable import listening

MB = 1 << 20


def test_what_is_kept_is_seen_and_what_is_freed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_MAIN", 50 * MB)
    leftovers = Leftovers()
    assert not leftovers.has_leaked()
    kept = bytearray(os.urandom(MB) * 100)
    assert leftovers.has_leaked()
    del kept
    assert not leftovers.has_leaked()


@pytest.mark.parametrize(
    ("after_trials", "answers"),
    [
        ([Memory(9 * MAX_MAIN), Memory(10 * MAX_MAIN)], [False, False]),  # libraries were loaded
        ([Memory(0), Memory(MAX_MAIN), Memory(MAX_MAIN + 1)], [False, False, True]),
        ([Memory(MAX_MAIN + 1), Memory(0), Memory(MAX_MAIN + 1)], [False, False, False]),
        ([Memory(0, MAX_GPU), Memory(0, MAX_GPU + 1)], [False, True]),
        ([Memory(0, MAX_GPU + 1)], [True]),
    ],
)
def test_main_memory_is_compared_with_the_first_trials_and_the_gpus_with_none(
    monkeypatch: pytest.MonkeyPatch, after_trials: list[Memory], answers: list[bool]
) -> None:
    left = iter(after_trials)
    monkeypatch.setattr(memory, "memory_used", lambda: next(left))
    leftovers = Leftovers()
    assert [leftovers.has_leaked() for _ in after_trials] == answers


@pytest.mark.parametrize(("is_initialized", "expected"), [(True, 7), (False, 0)])
def test_memory_of_a_gpu_that_is_used(
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
    """Stands for Tune's trainable."""

    ends_in_time = True

    def setup(self, config: dict[str, Any]) -> None:
        pass

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return self.ends_in_time

    def step(self) -> str:
        return "trained"


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An actor's trainable, once a trial has run in it; the end of the process is an exception."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("trainable.tune.trainable.wrap_function", lambda _: Base)
    environ: dict[str, str] = {}
    os = SimpleNamespace(_exit=leave, environ=environ)
    monkeypatch.setattr("trainable.tune.trainable.os", os)
    monkeypatch.setattr(memory, "memory_used", lambda: Memory(0))
    before = signal.getsignal(signal.SIGTERM)
    trial = listening(lambda config: None)()
    assert environ == {"RAY_CHDIR_TO_TRIAL_DIR": "0"}  # before Ray makes the trial's folder
    trial.setup({})
    assert trial.step() == "trained"
    yield trial
    listen()
    signal.signal(signal.SIGTERM, before)


def test_a_process_is_used_for_one_trial_after_another(trial: Any) -> None:
    for _ in range(3):
        assert trial.reset_config({})
        assert trial.step() == "trained"


@pytest.mark.parametrize("why", ["memory", "it did not end in time", "SIGTERM"])
def test_a_process_that_is_spent_leaves_the_next_trial_to_another(
    trial: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "memory":
        monkeypatch.setattr(memory, "memory_used", lambda: Memory(0, MAX_GPU + 1))
    elif why == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        monkeypatch.setattr(Base, "ends_in_time", False)
    assert trial.reset_config({})  # else Tune would give the trial up
    with pytest.raises(SystemExit):
        trial.step()
