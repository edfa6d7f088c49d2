"""Options that several commands share, spelled once."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ensemble.choice.request import Request
    from mlflow_setup.tracking.store import Tracking

Storage = Annotated[
    Path,
    typer.Option("--storage", envvar="ENSWEEP_STORAGE", help="Folder with the sweeps."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow server or database; default: mlflow.db in the storage folder.",
    ),
]
SweepName = Annotated[
    str | None, typer.Argument(metavar="[SWEEP]", help="A sweep's name; default: the latest.")
]
SweepNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SWEEP]...", help="Sweeps to choose from; default: the latest."),
]
SweepFile = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name or a YAML file.")]
SweepOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings of every trial, or search.*, scheduler.*, resources.* of the sweep.",
    ),
]
NewName = Annotated[str | None, typer.Option("--name", help="Default: SWEEP with date and time.")]
NumSamples = Annotated[
    int | None, typer.Option("--num-samples", help="Trials; search.num_samples.")
]
SearchSeed = Annotated[int | None, typer.Option("--seed", help="Of the search; search.seed.")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Folder or URI of the tasks' files; data.dir.")
]
Method = Annotated[
    str | None,
    typer.Option("--method", help="A rule of selection for all tasks; default: the fitting one."),
]
Average = Annotated[
    Literal["paper", "probabilities", "logits", "standardised"],
    typer.Option(
        "--average",
        help="What is averaged: class probabilities, logits and scores (paper); "
        "probabilities; logits; or as the paper with standardised scores.",
    ),
]
MaxMembers = Annotated[int | None, typer.Option("--max-members", min=1, help="Of a task, at most.")]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        help="Millions of parameters of the distinct encoders over all tasks, at most.",
    ),
]
Listed = Annotated[
    list[str] | None,
    typer.Option(
        "--runs",
        metavar="TASK=RUN,RUN",
        help="List a task's members instead: equal weights, each run's best epoch. Repeatable.",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="An exported bundle.")]
Precision = Annotated[
    Literal["fp32", "bf16", "auto"],
    typer.Option("--precision", help="auto: bf16 where the device multiplies it in hardware."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Examples a forward pass.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", help="Stop, resumably, after so many hours; budget.max_hours."),
]
MaxGpuHours = Annotated[
    float | None,
    typer.Option("--max-gpu-hours", help="Likewise, trials' GPU-hours; budget.max_gpu_hours."),
]
MaxUsd = Annotated[
    float | None,
    typer.Option("--max-usd", help="Likewise, their price; budget.max_usd, budget.usd_per_hour."),
]


def ensemble_request(
    tracking: "Tracking",
    sweeps: list[str] | None,
    runs: list[str] | None,
    method: str | None,
    max_members: int | None,
    max_cost: float | None,
    average: str,
    add: list[str] | None = None,
) -> "Request":
    """What these options ask for; of the latest sweep where neither sweeps nor runs are named."""
    from ensemble.choice.request import Request
    from ensemble.selection.combine import Averaged
    from mlflow_setup.runs.query import latest_sweep

    named = sweeps or ([] if runs else [latest_sweep(tracking)])
    return Request(
        sweeps=tuple(dict.fromkeys(named)),
        rule=method,
        max_members=max_members,
        max_cost=max_cost and max_cost * 1e6,
        averaged=Averaged(average),
        added=tuple(add or ()),
        listed=tuple(runs or ()),
    )


def as_overrides(options: Mapping[str, object]) -> list[str]:
    """`key=value` of the options that are given."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def budget_options(
    max_hours: float | None, max_gpu_hours: float | None, max_usd: float | None
) -> dict[str, float | None]:
    """The options of a budget by their keys."""
    return {
        "budget.max_hours": max_hours,
        "budget.max_gpu_hours": max_gpu_hours,
        "budget.max_usd": max_usd,
    }
