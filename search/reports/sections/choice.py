"""The shipped ensemble: score against cost, gain by number of members, members of each task."""

from ensemble.candidates.pool import Candidate
from ensemble.choice.result import EnsembleChoice, Method, Point
from ensemble.presentation.choice_json import CAVEAT
from ensemble.presentation.figures import (
    agreement,
    agreement_plot,
    gain_plot,
    shown_members,
    weights_plot,
)
from ensemble.presentation.plot import GREY, RED, Panel, Plot, Series
from ensemble.presentation.words import BYTES, doubts_by_task, name_of, size_of
from mlflow_setup.text import sentence
from search.reports.pages.content import Section, Table
from search.reports.sections.answers import Answers
from search.reports.sections.facts import Facts


def front_section(facts: Facts) -> Section:
    """Return the Pareto front of held-out score against cost, with the shipped ensemble."""
    title = "Score against cost"
    if facts.choice is None:
        return Section("front", title, absent=facts.no_choice)
    choice = facts.choice.record.choice
    shipped = choice.candidates(Method.SELECTIVE)
    rows = [_point_row(choice, point, point.candidates == shipped) for point in choice.front]
    chosen = {n for n, point in enumerate(choice.front) if point.candidates == shipped}
    table = Table(
        ["held-out overall", "in-sample", "what runs", "gain of the shipped ensemble over it", ""],
        rows,
        numbers=frozenset((0, 1)),
        strong=frozenset(chosen),
    )
    lines = [
        "Each point is better than all cheaper ones, on rows that had no part in choosing it.",
        sentence(CAVEAT),
    ]
    return Section("front", title, lines, [_front_plot(choice)], [table])


def ensemble_section(facts: Facts, answers: dict[str, Answers]) -> Section:
    """Return the ensemble's scores and gains, by task and by number of members, and its members."""
    title = "Ensemble"
    if facts.choice is None:
        return Section("ensemble", title, absent=facts.no_choice)
    choice = facts.choice.record.choice
    labels = {
        member.candidate: member.candidate.label
        for task in choice.tasks.values()
        for member in task.selective.members
    }
    lines = [f"{name}: {doubts}." for name, doubts in doubts_by_task(choice).items() if doubts]
    plots = []
    if any(len(task.curve.sizes) > 1 for task in choice.tasks.values()):
        plots.append(gain_plot(choice.tasks))
    else:
        lines.append("Every task has one member: there is no gain by members to draw.")
    if any(len(task.selective.members) > 1 for task in choice.tasks.values()):
        plots.append(weights_plot(labels, choice.tasks))
        plots += _agreement(choice, labels, answers)
    return Section("ensemble", title, lines, plots, [_scores(choice), _members(choice)])


def _front_plot(choice: EnsembleChoice) -> Plot:
    is_size = choice.cost.is_in_parameters
    scale, unit = (BYTES / 1e6, "MB of weights") if is_size else (1.0, "members")

    def at(point: Point) -> tuple[float, float]:
        return point.cost * scale, point.scores.held_out

    front = [at(point) for point in choice.front]
    shipped = choice.candidates(Method.SELECTIVE)
    marks = [
        Series(
            *([x for x, _ in front], [y for _, y in front], "better than all cheaper ones", "both"),
            texts=[size_of(choice, point.candidates) for point in choice.front],
        )
    ]
    full = at(choice.whole)
    if full not in front:
        text = [size_of(choice, choice.whole.candidates)]
        x, y = [full[0]], [full[1]]
        marks.append(Series(x, y, "full ensemble", "points", GREY, 3, texts=text))
    ours = choice.overall[Method.SELECTIVE].held_out
    cost, text = choice.cost(shipped) * scale, [f"ships: {size_of(choice, shipped)}"]
    marks.append(Series([cost], [ours], "ships", "points", RED, 4, texts=text))
    single, costs = (
        choice.overall[Method.BEST_SINGLE].held_out,
        [x for mark in marks for x in mark.x],
    )
    beyond = 0.03 * (max(costs) - min(costs)) or 1.0
    name, ends = "each task's best single run", [min(costs) - beyond, max(costs) + beyond]
    marks.append(Series(ends, [single, single], name, "dashed", GREY))
    panel = Panel(marks, "", unit, "held-out overall")
    return Plot("front", [panel], width=8.4, height=3.6)


def _point_row(choice: EnsembleChoice, point: Point, ships: bool) -> list[str]:
    gain = "" if ships else point.gain.describe()
    return [
        f"{point.scores.held_out:.4f}",
        f"{point.scores.in_sample:.4f}",
        size_of(choice, point.candidates),
        gain,
        "ships" if ships else "",
    ]


def _scores(choice: EnsembleChoice) -> Table:
    rows = []
    for name, task in choice.tasks.items():
        scores = {method: chosen.scores for method, chosen in task.methods.items()}
        gains = {method: gain.describe() for method, gain in task.gains.items()}
        rows.append([name, task.metric, *_cells(scores, gains)])
    gains = {method: gain.describe() for method, gain in choice.gains.items()}
    rows.append(["overall", "", *_cells(choice.overall, gains)])
    others = [method for method in Method if method is not Method.SELECTIVE]
    header = ["task", "metric", *(name_of(method) for method in Method)]
    header += [f"gain over {name_of(method)}" for method in others]
    numbers, last = frozenset((2, 3, 4)), frozenset([len(rows) - 1])
    return Table(header, rows, "Scores on rows that had no part in the choice", numbers, last)


def _cells(scores: dict, gains: dict) -> list[str]:  # type: ignore[type-arg]
    others = [method for method in Method if method is not Method.SELECTIVE]
    held_out = [f"{scores[method].held_out:.4f}" for method in Method]
    return [*held_out, *(gains.get(method, "") for method in others)]


def _members(choice: EnsembleChoice) -> Table:
    rows = [
        [name, task.rule.rule, f"{member.weight:.3f}", member.candidate.label]
        for name, task in choice.tasks.items()
        for member in task.selective.members
    ]
    header = ["task", "rule", "weight", "trial@epoch"]
    return Table(header, rows, "Members and weights", frozenset([2]), is_folded=len(rows) > 15)


def _agreement(
    choice: EnsembleChoice, labels: dict[Candidate, str], answers: dict[str, Answers]
) -> list[Plot]:
    tasks = {
        name: task
        for name, task in choice.tasks.items()
        if name in answers and len(task.selective.members) > 1
    }
    values = {}
    for name, task in tasks.items():
        members = [member.candidate for member in task.selective.members]
        places = [members.index(member) for member in shown_members(task)]
        kind = answers[name].task.kind
        values[name] = kind, agreement(kind, [answers[name].members[n] for n in places])
    return [agreement_plot(labels, tasks, values)] if tasks else []
