import numpy as np
from pools import task_pool

from ensemble.candidates.pool import Candidate, Pool
from ensemble.choice.cost import Cost
from ensemble.choice.pareto import Level, Option, Options, front_of, levels_of, options_of
from ensemble.choice.task_view import View, views_of
from ensemble.selection.combine import Averaged
from ensemble.statistics.bootstrap import overall_of
from trainable.config.tasks import PAPER_TASKS

NUM_ROWS = 120


def view_of(sizes: list[int], tasks: tuple[str, ...] = ("paraphrase",)) -> View:
    """Equally good candidates, each of which is wrong and unsure on its own share of the rows."""
    labels = np.arange(NUM_ROWS) // 2 % 2.0
    right = 2 * labels - 1
    own = np.arange(NUM_ROWS) // 4 % len(sizes)
    outputs = np.stack([np.where(own == m, -0.4 * right, right) for m in range(len(sizes))])
    candidates = tuple(Candidate(f"r{m}", f"{m}", "s", 1, "/w", n) for m, n in enumerate(sizes))
    pools = {name: task_pool(name, labels, candidates, outputs) for name in tasks}
    return views_of(Pool(pools, candidates, ()), Averaged.PAPER)[0]


def options(view: View) -> Options:
    count = len(next(iter(view.values())).candidates)
    equal = {name: np.full(count, 1 / count) for name in view}
    best = {name: np.eye(count)[0] for name in view}
    return options_of(view, best, equal, Cost())


def sizes_of(found: Options) -> list[list[int]]:
    return [sorted(c.num_parameters for c in option.members) for option in found.selective]


def test_of_equal_members_the_most_expensive_is_left_out_first() -> None:
    assert sizes_of(options(view_of([30, 10, 20]))) == [[10, 20, 30], [10, 20], [10]]


def test_leaving_out_a_shared_frozen_encoder_saves_only_its_heads() -> None:
    def probe(m: int, encoder: str) -> Candidate:
        return Candidate(f"r{m}", f"{m}", "s", 1, "/w", 110, encoder, 100)

    cost = Cost()
    first, second, other = probe(0, "a"), probe(1, "a"), probe(2, "b")
    for candidate, others in ((first, [second, other]), (other, [first, second])):
        assert cost.saved(candidate, others) == cost([candidate, *others]) - cost(others)


def test_weights_of_the_remaining_members_are_normalised() -> None:
    found = options(view_of([3, 2, 1]))
    for option in found.selective:
        for weights in option.combinations.values():
            assert sum(weights) == 1
            assert len(set(weights[weights > 0])) == 1


def test_every_task_keeps_a_member() -> None:
    view = view_of([3, 2, 1], ("paraphrase", "similarity"))
    best = {name: np.eye(3)[0] for name in view}
    given = {"paraphrase": np.array([0.5, 0.5, 0.0]), "similarity": np.array([0.0, 0.0, 1.0])}
    found = options_of(view, best, given, Cost())
    assert [len(option.members) for option in found.selective] == [3, 2, 1]
    for option in found.selective:
        assert all(weights.any() for weights in option.combinations.values())


def test_levels_have_options_of_other_folds_at_no_higher_cost() -> None:
    found = options(view_of([30, 10, 20]))
    levels = levels_of(found, [found, found])
    costs = [level.option.cost for level in levels]
    assert costs == sorted(costs)
    assert {30, 60} <= set(costs)
    for level in levels:
        assert len(level.of_folds) == 2
        assert all(option.cost <= level.option.cost for option in level.of_folds)


def test_a_level_needs_an_option_of_every_fold() -> None:
    found, dearer = (options(view_of(sizes)) for sizes in ([30, 10, 20], [31, 25, 26]))
    kinds = [level.option for level in levels_of(found, [dearer])]
    assert [o for o in kinds if o.cost < 25 and o not in (found.one_for_all, found.singles)] == []


def test_a_single_candidate_is_one_level() -> None:
    """Although it is both the best for all tasks together and the best for each."""
    found = options(view_of([10, 20, 30]))
    assert found.one_for_all is not None
    assert found.one_for_all.members == found.singles.members
    members = [level.option.members for level in levels_of(found, [found, found])]
    assert members.count(found.one_for_all.members) == 1


def test_the_front_excludes_dominated_levels_and_those_clearly_worse_for_a_task() -> None:
    two = tuple(Candidate(f"run{m}", f"{m:04d}", "s", 1, "/none", 1) for m in range(2))
    levels = [Level(Option({}, two, cost, 0.0), ()) for cost in (1, 2, 3, 4, 4, 5)]
    scores = {  # the second level is that of the best single candidates
        "paraphrase": np.tile([[0.70], [0.72], [0.71], [0.73], [0.74], [0.90]], 40),
        "similarity": np.tile([[0.80], [0.80], [0.90], [0.80], [0.80], [0.70]], 40),
    }
    total = overall_of(scores, {name: PAPER_TASKS[name] for name in scores})
    assert total[5, 0] == total[:, 0].max()
    assert front_of(levels, scores, total, 1) == [1, 4]
    levels[0] = Level(Option({}, two[:1], 1, 0.0), ())
    assert front_of(levels, scores, total, 1) == [0, 1, 4]  # a single model may be worse for a task
