"""Fixtures of these tests."""

import pytest
from chosen import Store, fill

from ensemble.candidates.pool import Pool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.result import EnsembleChoice
from trainable.runtime.progress import Work, report_to


@pytest.fixture(scope="module")
def usual(module_store: Store) -> tuple[Pool, EnsembleChoice]:
    """The runs of `fill` and the choice among them, with the effort that users get."""
    fill(module_store)
    pool = module_store.pool()
    told: list[Work] = []
    with report_to(told.append):
        choice = choose(pool)
    assert [told[0].done, told[-1].done, {work.total for work in told}] == [0, 20, {20}]
    return pool, choice
