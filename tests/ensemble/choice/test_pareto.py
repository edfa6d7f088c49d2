import numpy as np

from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.choice.cost import Cost
from ensemble.choice.pareto import Level, Option, Options, front_of, levels_of, options_of
from ensemble.choice.task_view import View, views_of
from ensemble.selection.combine import Averaged
from ensemble.statistics.bootstrap import overall_of
from ensemble.statistics.dev_splits import NUM_HALVES
from trainable.config.tasks import PAPER_TASKS

NUM_ROWS = 120


def view_of(sizes: list[int], tasks: tuple[str, ...] = ("paraphrase",)) -> View:
    """Equally good candidates, each wrong and unsure on its own share of the rows."""
    labels = np.arange(NUM_ROWS) // 2 % 2.0
    right = 2 * labels - 1
    own = np.arange(NUM_ROWS) // 4 % len(sizes)
    outputs = np.stack([np.where(own == m, -0.4 * right, right) for m in range(len(sizes))])
    candidates = tuple(Candidate(f"r{m}", f"{m}", "s", 1, "/w", n) for m, n in enumerate(sizes))
    pools = {
        name: TaskPool(
            task=PAPER_TASKS[name],
            data_fingerprint="data",
            ids=tuple(f"{row:03d}" for row in range(NUM_ROWS)),
            labels=labels,
            candidates=candidates,
            outputs=outputs.astype(np.float32),
            choosable=np.ones((1 + NUM_HALVES, len(sizes)), np.bool_),
            listed=np.ones(len(sizes), np.bool_),
        )
        for name in tasks
    }
    return views_of(Pool(pools, candidates, ()), Averaged.PAPER)[0]


def options(view: View) -> Options:
    count = len(next(iter(view.values())).candidates)
    equal = {name: np.full(count, 1 / count) for name in view}
    best = {name: np.eye(count)[0] for name in view}
    return options_of(view, best, equal, Cost())


def sizes_of(found: Options) -> list[list[int]]:
    return [sorted(c.num_parameters for c in option.members) for option in found.selective]


def test_what_costs_more_is_left_out_first() -> None:
    """Of equally good runs, each of which is missed as much, the larger goes."""
    assert sizes_of(options(view_of([30, 10, 20]))) == [[10, 20, 30], [10, 20], [10]]


def test_a_frozen_encoder_that_others_run_saves_only_its_heads() -> None:
    def probe(m: int, encoder: str) -> Candidate:
        return Candidate(f"r{m}", f"{m}", "s", 1, "/w", 110, encoder, 100)

    cost = Cost()
    first, second, other = probe(0, "a"), probe(1, "a"), probe(2, "b")
    for candidate, others in ((first, [second, other]), (other, [first, second])):
        assert cost.saved(candidate, others) == cost([candidate, *others]) - cost(others)


def test_shares_of_those_that_stay_are_scaled_up() -> None:
    found = options(view_of([3, 2, 1]))
    for option in found.selective:
        for weights in option.combinations.values():
            assert sum(weights) == 1
            assert len(set(weights[weights > 0])) == 1


def test_a_task_is_never_left_without_a_member() -> None:
    view = view_of([3, 2, 1], ("paraphrase", "similarity"))
    best = {name: np.eye(3)[0] for name in view}
    given = {"paraphrase": np.array([0.5, 0.5, 0.0]), "similarity": np.array([0.0, 0.0, 1.0])}
    found = options_of(view, best, given, Cost())
    assert [len(option.members) for option in found.selective] == [3, 2, 1]
    for option in found.selective:
        assert all(weights.any() for weights in option.combinations.values())


def test_levels_are_what_other_folds_choose_for_as_much() -> None:
    found = options(view_of([30, 10, 20]))
    levels = levels_of(found, [found, found])
    costs = [level.option.cost for level in levels]
    assert costs == sorted(costs)
    assert {30, 60} <= set(costs)
    for level in levels:
        assert len(level.of_folds) == 2
        assert all(option.cost <= level.option.cost for option in level.of_folds)


def test_a_level_that_another_fold_has_nothing_for_is_none() -> None:
    found, dearer = (options(view_of(sizes)) for sizes in ([30, 10, 20], [31, 25, 26]))
    kinds = [level.option for level in levels_of(found, [dearer])]
    assert [o for o in kinds if o.cost < 25 and o not in (found.one_for_all, found.singles)] == []


def test_a_candidate_alone_is_one_level() -> None:
    """Also where it is the best for all tasks together and the best of each."""
    found = options(view_of([10, 20, 30]))
    assert found.one_for_all is not None
    assert found.one_for_all.members == found.singles.members
    members = [level.option.members for level in levels_of(found, [found, found])]
    assert members.count(found.one_for_all.members) == 1


def test_the_front_has_no_level_that_a_cheaper_one_beats_or_a_task_is_clearly_worse_at() -> None:
    two = tuple(Candidate(f"run{m}", f"{m:04d}", "s", 1, "/none", 1) for m in range(2))
    levels = [Level(Option({}, two, cost, 0.0), ()) for cost in (1, 2, 3, 4, 4, 5)]
    given = {  # the second is of single candidates; of no replicate another is worse at any task
        "paraphrase": np.tile([[0.70], [0.72], [0.71], [0.73], [0.74], [0.90]], 40),
        "similarity": np.tile([[0.80], [0.80], [0.90], [0.80], [0.80], [0.70]], 40),
    }
    total = overall_of(given, {name: PAPER_TASKS[name] for name in given})
    assert total[5, 0] == total[:, 0].max()
    assert front_of(levels, given, total, 1) == [1, 4]
    levels[0] = Level(Option({}, two[:1], 1, 0.0), ())
    assert front_of(levels, given, total, 1) == [0, 1, 4]  # one model is what others are held to
