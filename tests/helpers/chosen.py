"""Fill a store with runs whose ensemble is fast to choose."""

from typing import Any

Store = Any  # tests/ensemble/conftest.py


def fill(store: Store) -> None:
    for seed, trial in enumerate("abcdef"):
        store.add_usual(trial, seed, num_epochs=3)
