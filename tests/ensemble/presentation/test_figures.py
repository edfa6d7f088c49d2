"""Pictures of a choice: PNG files that show its numbers."""

from pathlib import Path

import numpy as np
import pytest
from pools import Store

from ensemble.candidates.pool import Pool, labels_of
from ensemble.choice.cross_fitting import choose
from ensemble.choice.result import EnsembleChoice
from ensemble.choice.tracking import write_pictures
from ensemble.presentation import figures
from ensemble.presentation.figures import agreement_in, gain_plot, pictures, weights_plot
from ensemble.presentation.plot import Bars, Series


@pytest.fixture
def chosen(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Pool, EnsembleChoice]:
    monkeypatch.setattr(figures, "MAX_SHOWN", 3)
    for number in range(5):
        outputs = {t: store.outputs(t, number) for t in ("sentiment", "similarity")}
        store.add(f"${number}", {1: outputs})  # a $ starts no formula
    pool = store.pool()
    return pool, choose(pool, "simple")


def test_pictures_show_the_numbers_of_a_choice(chosen: tuple[Pool, EnsembleChoice]) -> None:
    pool, choice = chosen
    found = pictures(pool, choice)
    assert list(found) == ["gain.png", "weights.png", "agreement.png"]
    for image in found.values():
        assert image.startswith(b"\x89PNG")
    assert pictures(pool, choice) == found
    for panel, (name, task) in zip(
        gain_plot(choice.tasks).panels, choice.tasks.items(), strict=True
    ):
        assert panel.title == name
        held_out, in_sample = panel.marks
        assert isinstance(held_out, Series)
        assert isinstance(in_sample, Series)
        assert (held_out.x, held_out.y) == (task.curve.sizes, task.curve.held_out)
        assert (held_out.low, held_out.high) == (task.curve.low, task.curve.high)
        assert in_sample.y == task.curve.in_sample
    panel = weights_plot(labels_of(pool), choice.tasks).panels[0]
    (bars,) = panel.marks
    assert isinstance(bars, Bars)
    assert panel.title == "sentiment (and 2 more)"
    assert bars.values == [1 / 5] * 3
    assert bars.labels[0] == "$0@1"


def test_a_choice_of_single_members_has_no_pictures_and_removes_old_ones(
    chosen: tuple[Pool, EnsembleChoice], tmp_path: Path
) -> None:
    pool, several = chosen
    write_pictures(tmp_path / "own", pictures(pool, several))
    assert len(list((tmp_path / "own").iterdir())) == 3
    write_pictures(tmp_path / "own", pictures(pool, choose(pool, "single")))
    assert list((tmp_path / "own").iterdir()) == []


def test_agreement_of_members(store: Store) -> None:
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
        agreement_in(pool.tasks["paraphrase"], members), [[1, equal], [equal, 1]]
    )
    np.testing.assert_allclose(agreement_in(pool.tasks["similarity"], members), [[1, -1], [-1, 1]])
