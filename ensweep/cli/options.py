"""Options that several commands share, spelled once."""

from pathlib import Path
from typing import Annotated

import typer

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
