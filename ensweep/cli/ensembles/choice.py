"""Print a choice of members as text. Slow to import: only `ensweep ensemble` does."""

import typer

from ensemble.candidates.pool import Candidate, Pool, labels_of
from ensemble.choice.request import Request
from ensemble.choice.result import EnsembleChoice, Method, MethodChoice, Scores, TaskChoice
from ensemble.presentation.choice_json import CAVEAT
from ensemble.presentation.words import doubts_by_task, name_of, size_of
from ensemble.selection.rule_selection import RuleChoice
from ensemble.statistics.bootstrap import Gain
from mlflow_setup.text import counted

_WIDTH = 12

Labels = dict[Candidate, str]


def print_choice(request: Request, pool: Pool, choice: EnsembleChoice) -> None:
    """Print rejected candidates, each task's members and scores, then scores overall and by
    cost."""
    labels = labels_of(pool)
    _print_pool(request, pool)
    doubts = doubts_by_task(choice)
    for name, task in choice.tasks.items():
        _print_task(name, task, labels, doubts[name])
    _print_overall(choice, labels)
    _print_front(choice)
    typer.echo(CAVEAT)


def _print_pool(request: Request, pool: Pool) -> None:
    num_runs = len({candidate.run_id for candidate in pool.candidates})
    found = f"{counted(len(pool.candidates), 'candidate')} of {counted(num_runs, 'run')}"
    typer.echo(f"{request.title}: {found}")
    for one in pool.added:
        typer.echo(f"  added {one.candidate.label} to {one.task}: {one.form}")
    for rejected in pool.rejected:
        sweep = f"{rejected.sweep}/" if len(request.sweeps) > 1 and rejected.sweep else ""
        typer.echo(f"  rejected {sweep}{rejected.label}: {rejected.reason}")
    typer.echo()


def _print_task(name: str, task: TaskChoice, labels: Labels, doubts: str | None) -> None:
    typer.echo(
        f"{name}: {task.metric} on {task.num_rows} dev rows, held-out" + _dim("  and in-sample")
    )
    for method, chosen in task.methods.items():
        typer.echo(f"  {_line(method, chosen.scores)}  {_members(method, chosen, labels)}")
    typer.echo(f"  selective by {_rule(task.rule)}")
    typer.echo(f"  {_gains(task.gains, task.selective.scores)}")
    if doubts is not None:
        typer.echo(f"  {doubts}")
    typer.echo()


def _print_overall(choice: EnsembleChoice, labels: Labels) -> None:
    typer.echo("overall")
    for method, scores in choice.overall.items():
        typer.echo(f"  {_line(method, scores)}  {size_of(choice, choice.candidates(method))}")
    single = choice.one_for_all
    if single is not None:
        shown = "one for all".ljust(_WIDTH)
        typer.echo(f"  {shown}{_scores(single.scores)}  {labels[single.candidate]}")
        if choice.candidates(Method.SELECTIVE) != (single.candidate,):
            typer.echo(f"  selective's gain over one for all {single.gain.describe()}")
    typer.echo(f"  {_gains(choice.gains, choice.overall[Method.SELECTIVE])}")
    doubts = doubts_by_task(choice)["overall"]
    if doubts is not None:
        typer.echo(f"  {doubts}")
    typer.echo()


def _print_front(choice: EnsembleChoice) -> None:
    shipped = choice.candidates(Method.SELECTIVE)
    typer.echo("levels of cost, each better than all cheaper ones")
    for point in choice.front:
        mark = "  <- ships" if point.candidates == shipped else ""
        typer.echo(f"  {_scores(point.scores)}  {size_of(choice, point.candidates)}{mark}")
    typer.echo()


def _rule(choice: RuleChoice) -> str:
    """The chosen rule and the scores of all rules on the folds of dev-train."""
    scores = {row.rule: row.score for row in choice.scores}
    if not scores:
        return f"{choice.rule} (too few rows to compare it with others)"
    others = (f"{name} {score:.4f}" for name, score in scores.items() if name != choice.rule)
    words = f"{choice.rule} ({scores[choice.rule]:.4f} on the folds of dev-train"
    return words + "".join(f", {text}" for text in others) + ")"


def _gains(gains: dict[Method, Gain], scores: Scores) -> str:
    """The gains of the selective ensemble over the other methods, and its optimism: in-sample minus
    held-out score."""
    words = (f"{gain.describe()} over {name_of(method)}" for method, gain in gains.items())
    return f"gain {', '.join(words)}; optimism {scores.optimism:+.4f}"


def _line(method: Method, scores: Scores) -> str:
    return name_of(method).ljust(_WIDTH) + _scores(scores)


def _scores(scores: Scores) -> str:
    return f"{scores.held_out:.4f}  " + _dim(f"{scores.in_sample:.4f}")


def _members(method: Method, chosen: MethodChoice, labels: Labels) -> str:
    if method is Method.SIMPLE:
        return f"{len(chosen.members)} runs, equal weights"
    return ", ".join(f"{m.weight:.3f} {labels[m.candidate]}" for m in chosen.members)


def _dim(text: str) -> str:
    return typer.style(text, dim=True)
