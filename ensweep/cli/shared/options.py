"""Options that several commands share, and groups of them.

A command takes a group of options as one argument: a dataclass with one field per option.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ensweep.cli.shared import completion

if TYPE_CHECKING:
    from ensemble.choice.request import Request
    from mlflow_setup.tracking.store import Tracking
    from search.config.sweep_config import SweepConfig

SweepName = Annotated[
    str | None,
    typer.Argument(
        metavar="[SWEEP]",
        help="A sweep's name; default: the latest.",
        autocompletion=completion.sweeps_here,
    ),
]
Sweeps = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SWEEP]...",
        help="Names of sweeps; default: the latest.",
        autocompletion=completion.sweeps_here,
    ),
]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="Folder or URI of the data; data.dir.")
]
DataDirNeeded = Annotated[str, typer.Option("--data-dir", help="Folder or URI of the data.")]


def local_bundle(place: Path) -> Path:
    """The bundle's folder, downloaded if it is at a storage URI. Raises ConfigError or PartialError
    as `trainable.data.remote.fetched`."""
    from mlflow_setup.filesystem.paths import uri_or_path
    from trainable.data.remote import local_folder

    return local_folder(uri_or_path(place))


Bundle = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE", help="An exported bundle, or its storage URI."),
    local_bundle,
]
Folder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="An exported bundle.")]
Precision = Annotated[
    Literal["fp32", "bf16", "auto"],
    typer.Option("--precision", help="Precision; auto: bf16 if the device has hardware support."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Examples in a forward pass.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings, as `ensweep settings` lists them.",
        autocompletion=completion.settings,
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name or a YAML file.",
        autocompletion=completion.recipes,
    ),
]
WarmStart = Annotated[
    list[str] | None,
    typer.Option(
        "--warm-start",
        metavar="OTHER",
        help="A sweep whose trials the search starts from, by name or folder; repeatable.",
        autocompletion=completion.sweeps_here,
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", envvar="RAY_ADDRESS", help="With --ray: the cluster, host:port."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits that stop a sweep early; it can be resumed."""

    max_hours: Annotated[
        float | None,
        typer.Option(
            "--max-hours", help="Stop, resumably, after this many hours; budget.max_hours."
        ),
    ] = None
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(
            "--max-gpu-hours",
            help="Stop, resumably, after this many GPU-hours of all trials; budget.max_gpu_hours.",
        ),
    ] = None
    max_usd: Annotated[
        float | None,
        typer.Option(
            "--max-usd",
            help="Stop, resumably, after this cost in USD; budget.max_usd, budget.usd_per_hour.",
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class NewSweepOptions:
    """The options that describe a new sweep."""

    name_or_file: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP",
            help="A sweep's name or a YAML file.",
            autocompletion=completion.packaged_sweeps,
        ),
    ]
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Settings of every trial, or search.*, scheduler.*, resources.* of the sweep.",
            autocompletion=completion.settings,
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the sweep; default: SWEEP with date and time."),
    ] = None
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", help="Number of trials; search.num_samples.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the search; search.seed.")] = (
        None
    )

    def read(
        self, limits: Limits, data_dir: str | None = None, is_run_here: bool = True
    ) -> "tuple[SweepConfig, str]":
        """The resolved sweep, and its name."""
        from search.config.load import read_sweep

        options = {
            "search.num_samples": self.num_samples,
            "search.seed": self.seed,
            "data.dir": data_dir,
            **{f"budget.{key}": limit for key, limit in vars(limits).items()},
        }
        given = [*(self.overrides or []), *as_overrides(options)]
        sweep = read_sweep(self.name_or_file, given, is_run_here=is_run_here)
        return sweep, self.name or dated(sweep.name)


@dataclasses.dataclass(frozen=True)
class EnsembleOptions:
    """The options that describe a choice of ensemble members."""

    sweeps: Sweeps = None
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="Selection rule for all tasks; default: the best one for each task."
        ),
    ] = None
    max_members: Annotated[
        int | None, typer.Option("--max-members", min=1, help="Most members for a task.")
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost",
            help="Most parameters of the distinct encoders of all tasks, in millions.",
        ),
    ] = None
    average: Annotated[
        Literal["paper", "probabilities", "logits", "standardised"],
        typer.Option(
            "--average",
            help="What is averaged: class probabilities, logits and scores (paper); "
            "probabilities; logits; or as in the paper with standardised scores.",
        ),
    ] = "paper"
    prefer: Annotated[
        Literal["score", "balanced", "single"] | None,
        typer.Option(
            "--prefer",
            help="score: the best score. balanced (the default without --method): the cheapest "
            "within one standard error of it, or one model if more have no clear gain. "
            "single: one model.",
        ),
    ] = None
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--runs",
            metavar="TASK=RUN,RUN",
            help="Use these members for a task: equal weights, each run's best epoch. Repeatable.",
            autocompletion=completion.runs_here,
        ),
    ] = None

    def request(self, tracking: "Tracking", added: list[str] | None = None) -> "Request":
        """The request that the options describe; without sweeps and runs for the latest sweep."""
        from ensemble.choice.request import Request
        from ensemble.choice.result import Prefer
        from ensemble.selection.combine import Averaged
        from mlflow_setup.runs.query import latest_tracked_sweep

        named = self.sweeps or ([] if self.runs else [latest_tracked_sweep(tracking)])
        return Request(
            sweeps=tuple(dict.fromkeys(named)),
            rule=self.method,
            max_members=self.max_members,
            max_cost=self.max_cost and self.max_cost * 1e6,
            averaged=Averaged(self.average),
            added=tuple(added or ()),
            prefer=None if self.prefer is None else Prefer(self.prefer),
            listed=tuple(self.runs or ()),
        )


def as_overrides(options: Mapping[str, object]) -> list[str]:
    """The options that are not None as `key=value`."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def dated(name: str) -> str:
    """The default name of a sweep: `name` with date and time."""
    from datetime import datetime

    return f"{name}-{datetime.now():%Y%m%d-%H%M}"
