"""Fixtures of these tests."""

import pytest
from chosen import Store, fill

from ensemble.candidates.pool import Pool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.result import EnsembleChoice
from trainable.runtime.progress import Work, report_to


@pytest.fixture(scope="module")
def usual(module_store: Store) -> tuple[Pool, EnsembleChoice]:
    """The runs of `fill` and the choice among them, with the default effort."""
    fill(module_store)
    pool = module_store.pool()
    reported: list[Work] = []
    with report_to(reported.append):
        choice = choose(pool)
    assert [reported[0].done, reported[-1].done, {work.total for work in reported}] == [0, 20, {20}]
    return pool, choice
