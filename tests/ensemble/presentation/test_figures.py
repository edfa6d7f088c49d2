"""A choice in pictures: PNG files of what is in its numbers."""

from typing import Any

import numpy as np
import pytest

from ensemble.candidates.pool import Pool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.result import EnsembleChoice
from ensemble.presentation import figures
from ensemble.presentation.figures import (
    HELD_OUT,
    agreement,
    gain_figure,
    pictures,
    weights_figure,
)

Store = Any  # tests/ensemble/conftest.py


@pytest.fixture
def chosen(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Pool, EnsembleChoice]:
    monkeypatch.setattr(figures, "MAX_SHOWN", 3)
    for number in range(5):
        outputs = {t: store.outputs(t, number) for t in ("sentiment", "similarity")}
        store.add(f"${number}", {1: outputs})  # a $ is only a $
    pool = store.pool()
    return pool, choose(pool, "simple")


def test_the_pictures(chosen: tuple[Pool, EnsembleChoice]) -> None:
    pool, choice = chosen
    found = pictures(pool, choice)
    assert list(found) == ["gain.png", "weights.png", "agreement.png"]
    for image in found.values():
        assert image.startswith(b"\x89PNG")
    assert pictures(pool, choice) == found

    for axis, (name, task) in zip(
        gain_figure(choice.tasks).axes, choice.tasks.items(), strict=True
    ):
        assert axis.get_title() == name
        (line,) = (line for line in axis.lines if line.get_label() == "held-out")
        assert line.get_color() == HELD_OUT
        np.testing.assert_allclose(line.get_xydata().T, [task.curve.sizes, task.curve.held_out])
    axis = weights_figure(pool, choice.tasks).axes[0]
    assert axis.get_title() == "sentiment (and 2 more)"
    widths = [bar.get_width() for bar in axis.patches]
    assert widths == [1 / 5] * 3
    assert axis.get_yticklabels()[0].get_text() == "$0@1"


def test_agreement(store: Store) -> None:
    labels = store.labels
    store.add(
        "a", {1: {"paraphrase": labels["paraphrase"] - 0.5, "similarity": labels["similarity"]}}
    )
    wrong = np.where(np.arange(60) < 15, 0.5, labels["paraphrase"] - 0.5)
    store.add("b", {1: {"paraphrase": wrong, "similarity": 9 - 2 * labels["similarity"]}})
    pool = store.pool()
    members = list(pool.candidates)
    equal = 1 - (labels["paraphrase"][:15] == 0).sum() / 60
    np.testing.assert_allclose(
        agreement(pool.tasks["paraphrase"], members), [[1, equal], [equal, 1]]
    )
    np.testing.assert_allclose(agreement(pool.tasks["similarity"], members), [[1, -1], [-1, 1]])
