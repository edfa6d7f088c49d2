"""`ensweep ensemble`: which runs to combine for each task, and what that is worth.

ensweep ensemble demo --storage runs
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ensweep.cli.options import (
    AsJson,
    Average,
    MaxCost,
    MaxMembers,
    Method,
    Storage,
    SweepName,
    TrackingUri,
)

if TYPE_CHECKING:
    from ensemble.candidates import Pool
    from ensemble.choice import EnsembleChoice, MethodChoice, Point, Scores
    from ensemble.choice import Method as Choice
    from ensemble.inner import RuleChoice

CAVEAT = (
    "judged: halves of dev choose in turn and the others judge. Members are chosen on all of dev, "
    "which the hyperparameter search has seen: ensweep evaluate BUNDLE on labelled data that "
    "nothing has seen is the last word"
)
_WIDTH = 12


def register(app: typer.Typer) -> None:
    """Add this noun's command to the command line."""
    app.command("ensemble")(ensemble)


def ensemble(
    sweep: SweepName = None,
    method: Method = None,
    max_members: MaxMembers = None,
    max_cost: MaxCost = None,
    average: Average = "paper",
    storage: Storage = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Best single run, simple average and selective ensemble of each task, honestly judged."""
    from ensemble.choose import choose_ensemble
    from ensemble.combine import Averaged
    from mlflow_setup.runs import latest_sweep
    from mlflow_setup.tracking import resolve_tracking

    tracking = resolve_tracking(storage, tracking_uri)
    name = sweep or latest_sweep(tracking)
    pool, choice = choose_ensemble(
        tracking,
        name,
        storage / ".cache",
        method,
        max_members,
        max_cost and max_cost * 1e6,
        Averaged(average),
    )
    if as_json:
        content = {
            "schema_version": 1,
            "sweep": name,
            "num_candidates": len(pool.candidates),
            **choice.to_json(),
            "rejected": [vars(run) for run in pool.rejected],
            "note": CAVEAT,
        }
        typer.echo(json.dumps(content, allow_nan=False))
        return
    _print_pool(name, pool)
    for task in choice.tasks:
        _print_task(task, choice)
    _print_overall(choice)
    _print_front(choice.front)
    typer.echo(CAVEAT)
    typer.echo(f"next: ensweep export {name} --output DIR", err=True)


def _print_pool(name: str, pool: "Pool") -> None:
    num_runs = len({candidate.run_id for candidate in pool.candidates})
    typer.echo(f"sweep {name}: {len(pool.candidates)} candidates of {num_runs} runs")
    for run in pool.rejected:
        typer.echo(f"  rejected {run.trial}: {run.reason}")
    typer.echo()


def _print_task(name: str, choice: "EnsembleChoice") -> None:
    task = choice.tasks[name]
    typer.echo(
        f"{name}: {task.metric} on {task.num_rows} dev rows, judged" + _dim("  and in-sample")
    )
    for method, chosen in task.methods.items():
        typer.echo(f"  {_line(method, chosen.scores)}  {_members(method, chosen)}")
    typer.echo(f"  selective by {_rule(task.rule)}")
    gains = (f"{found.describe()} over {_words(method)}" for method, found in task.gains.items())
    typer.echo(f"  gain {', '.join(gains)}")
    if task.note is not None:
        typer.echo(f"  {task.note}")
    typer.echo()


def _print_overall(choice: "EnsembleChoice") -> None:
    typer.echo("overall")
    for method, scores in choice.overall.items():
        count = len(choice.candidates(method))
        typer.echo(f"  {_line(method, scores)}  {count} encoder{'s' * (count != 1)}")
    single = choice.one_for_all
    if single is not None:
        shown = "one for all".ljust(_WIDTH)
        typer.echo(f"  {shown}{_scores(single.scores)}  {single.candidate.label}")
    typer.echo()


def _print_front(front: "tuple[Point, ...]") -> None:
    if len(front) < 2:
        return
    typer.echo("selective with fewer encoders, overall")
    for point in front:
        count = len(point.candidates)
        size = f"  {point.cost / 1e6:.1f} M parameters" if point.cost > count else ""
        words = f"{count} encoder{'s' * (count != 1)}"
        typer.echo(f"  {words.ljust(_WIDTH)}{_scores(point.scores)}{size}")
    typer.echo()


def _rule(choice: "RuleChoice") -> str:
    """The rule, and what the others were worth on dev-train's own folds."""
    scores = {row.rule: row.score for row in choice.scores}
    if not scores:
        return f"{choice.rule} (too few rows to compare it with others)"
    others = (f"{name} {score:.4f}" for name, score in scores.items() if name != choice.rule)
    words = f"{choice.rule} ({scores[choice.rule]:.4f} on the folds of dev-train"
    return words + "".join(f", {text}" for text in others) + ")"


def _line(method: "Choice", scores: "Scores") -> str:
    return _words(method).ljust(_WIDTH) + _scores(scores)


def _words(method: "Choice") -> str:
    return method.value.replace("_", " ")


def _scores(scores: "Scores") -> str:
    return f"{scores.judged:.4f}  " + _dim(f"{scores.in_sample:.4f}")


def _members(method: "Choice", chosen: "MethodChoice") -> str:
    if method == "simple":
        return f"{len(chosen.members)} runs, equal weights"
    return ", ".join(f"{m.weight:.3f} {m.candidate.label}" for m in chosen.members)


def _dim(text: str) -> str:
    return typer.style(text, dim=True)
