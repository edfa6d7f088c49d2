"""Checks of a sweep before it starts, with a forecast of its time, disk space and memory.

The driver runs its own checks first and starts Ray only if they pass. One run reports every problem
that does not follow from another.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ensemble.distillation.teachers import find_teacher
from mlflow_setup.errors import ConfigError
from mlflow_setup.filesystem.storage import storage_of
from mlflow_setup.text import counted
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.uris import redact
from search.algorithms.rungs import new_rungs
from search.cluster.slots import Slots, find_slots, require_devices, unpriced
from search.config.sweep_config import SweepConfig
from search.planning.checks import Check, Checks
from search.planning.forecast import Forecast, Terms, forecast
from search.planning.gpu_sharing import Share, describe, measure
from search.planning.node_probes import ProbeResults, memory_problems, run_probes
from search.planning.preflight import known_configs, read_data, refuse_taken
from search.planning.probe import probe_folder
from search.planning.representative_trials import choose
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config
from trainable.config.constraints import settings_without_effect
from trainable.training.profile import Rehearsal
from trainable.tune.cluster import cluster, environment
from trainable.tune.placement import TrialPlacement


@dataclass
class Plan(Checks):
    """The results of the checks, and the forecast if there are no errors."""

    forecast: Forecast | None = None
    rehearsals: dict[str, Rehearsal] = field(default_factory=dict)
    sharing: list[Share] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "checks": [asdict(check) for check in self.checks],
            "forecast": None if self.forecast is None else asdict(self.forecast),
            "sharing": [asdict(share) for share in self.sharing],
        }


def make_plan(
    sweep: SweepConfig,
    name: str,
    storage: Path,
    tracking: Tracking,
    *,
    deep: bool = False,
    share: bool = False,
) -> Plan:
    """Check the requirements of the sweep `name`, and train a few steps of some configurations.

    Args:
        deep: probe a node of every type that is running, not only where tasks are scheduled.
        share: measure how many trials should share a GPU, or a machine's CPUs.
    """
    plan = Plan()
    folder = SweepFolder(storage, name)
    configs: dict[str, Config] = {}
    plan.run("settings", lambda: _settings(sweep, configs))
    for idle in _idle_keys(sweep, configs.values()):
        plan.warn("settings", idle)
    if any(config.pretrain.enabled for config in configs.values()):
        plan.warn("settings", "additional pre-training comes first; the forecast is without it")
    plan.run("data", lambda: _data(sweep, configs))
    plan.run("tracking", lambda: _tracking(tracking))
    if not plan.errors:
        plan.run("teacher", lambda: _teachers(configs, tracking))
        plan.run("name", lambda: _name(folder, tracking))
    plan.run("storage", lambda: _storage(folder.path.parent))
    if plan.errors:
        plan.warn("cluster", "not checked until the errors are corrected")
        return plan
    other_work = niceness(os.environ, os.getloadavg()[0], os.cpu_count() or 1)
    plan.run("cluster", partial(_cluster, plan, sweep, folder, configs, deep, share))
    if other_work is not None:
        plan.warn("cluster", other_work, "RAY_worker_niceness=0 gives trials an equal share")
    return plan


def niceness(environment: Mapping[str, str], load: float, num_cpus: int) -> str | None:
    """Return a warning if Ray is started on this machine and other work keeps its CPUs busy.

    Args:
        load: the load average of the last minute.
    """
    nice = environment.get("RAY_worker_niceness", "15")  # Ray's default
    if environment.get("RAY_ADDRESS") or nice in ("0", "") or load < num_cpus / 2:
        return None
    return (
        f"other work keeps {load:.1f} of {num_cpus} CPUs busy and has priority over trials, which "
        f"run at Ray's niceness {nice}"
    )


def _settings(sweep: SweepConfig, configs: dict[str, Config]) -> str:
    configs |= choose(sweep)
    num_samples = sweep.search.num_samples
    num_first = min(len(sweep.first_trials), num_samples)
    words = [counted(num_samples, "trial")]
    if num_first:
        words.append(f"{num_first} of them given")
    if num_first < num_samples:
        words.append(f"{num_samples - num_first} drawn from {len(sweep.space)} keys")
    return ", ".join(words)


def _idle_keys(sweep: SweepConfig, configs: Iterable[Config]) -> list[str]:
    """Return a warning for each searched key that has no effect in any of the configurations."""
    reasons = [
        {
            line.partition("=")[0]: line.rpartition(": ")[2]
            for line in settings_without_effect(config)
        }
        for config in configs
    ]
    always = set.intersection(*map(set, reasons)) if reasons else set()
    return [
        f"{key} is searched and has no effect: {reasons[0][key]}"
        for key in sorted(always & set(sweep.space))
    ]


def _data(sweep: SweepConfig, configs: Mapping[str, Config]) -> str:
    read = read_data(configs.values() if configs else known_configs(sweep))
    data = max(read.values(), key=lambda dataset: sum(map(len, dataset.train.values())))
    sizes = []
    for task, train in data.train.items():
        dev = f" + {len(data.dev[task]):,}" if task in data.dev else ""
        sizes.append(f"{task} {len(train):,}{dev}")
    skipped = sum(data.skipped.values())
    return "train + dev: " + ", ".join(sizes) + (f"; {skipped} rows left out" if skipped else "")


def _tracking(tracking: Tracking) -> str:
    tracking.check_writable()
    return f"{redact(tracking.uri)}: written to"


def _teachers(configs: Mapping[str, Config], tracking: Tracking) -> str:
    teachers = {find_teacher(config, tracking) for config in configs.values()} - {""}
    return ", ".join(sorted(teachers)) or "no trained teacher is needed"


def _name(folder: SweepFolder, tracking: Tracking) -> str:
    refuse_taken(folder, tracking)
    return f"{folder.name} is free"


def _storage(storage: Path) -> str:
    kept = storage_of(storage)
    if kept.is_remote:
        kept.probe()
        return f"{kept.address(storage)}: writable; of two concurrent writers one is refused"
    with probe_folder(storage):
        return f"{storage}: writable, with locks; {_free(storage) / 1e9:.1f} GB free"


def _cluster(
    plan: Plan,
    sweep: SweepConfig,
    folder: SweepFolder,
    configs: Mapping[str, Config],
    deep: bool,
    share: bool,
) -> str:
    """Run the checks that need Ray, and add their results to the plan."""
    storage, resources = folder.path.parent, sweep.resources
    if share and folder.storage.is_remote:
        raise ConfigError("--share: needs a storage folder, not a storage URI")
    with environment(), cluster() as nodes, probe_folder(storage) as shared_folder:
        slots = find_slots(resources, nodes)
        require_devices(configs.values(), slots)
        place = TrialPlacement(
            folder.address_of_storage,
            folder.name,
            resources.cpus_per_trial,
            slots.gpus_per_trial,
            usd_per_hour=sweep.budget.usd_per_hour,
        )
        num_probes = min(slots.max_concurrent_trials, sweep.search.num_samples)
        results = run_probes(configs, place, shared_folder, num_probes, deep=deep)
        if share and not results.problems:
            typical = list(configs.values())[-1]
            plan.sharing = measure(typical.flat(), place, shared_folder)
        too_large = list(memory_problems(results, place, num_probes))
        without_price = unpriced(sweep.budget, resources, slots, nodes)
    for problem in [*results.problems, *too_large]:
        plan.fail("task", problem)
    if without_price is not None:
        add = plan.warn if sweep.budget.max_usd is None else plan.fail
        add("budget", without_price, "name every node type under budget.usd_per_hour")
    if plan.sharing:
        plan.warn("sharing", describe(plan.sharing))
    for name, rehearsal in results.rehearsals.items():
        plan.checks.append(Check(name, "ok", _describe(rehearsal)))
    plan.rehearsals = results.rehearsals
    if not plan.errors:
        plan.forecast = _forecast(sweep, results, slots, storage)
        _check_limits(plan, sweep, results, slots, storage)
    hosts = len({report.host for report in results.reports})
    return (
        f"{num_probes} trials at a time, {resources.cpus_per_trial} CPU and "
        f"{slots.gpus_per_trial:g} GPU each; {len(results.reports)} tasks on {hosts} machine(s)"
    )


def _describe(rehearsal: Rehearsal) -> str:
    steps = [seconds for stage in rehearsal.stages for seconds in stage.step_seconds]
    mean = sum(map(sum, steps)) / sum(map(len, steps))
    return (
        f"{rehearsal.num_parameters / 1e6:.1f} M parameters, {mean:.3f} s a step, "
        f"{rehearsal.peak_bytes / 1e9:.1f} GB"
    )


def _forecast(sweep: SweepConfig, results: ProbeResults, slots: Slots, storage: Path) -> Forecast:
    costs = results.rehearsals
    if storage_of(storage).is_remote:  # no hard links there, by which epochs share an encoder
        costs = {name: replace(cost, encoder_bytes=0) for name, cost in costs.items()}
    first = [cost for name, cost in costs.items() if name.startswith("first")]
    drawn = [cost for name, cost in costs.items() if name.startswith("drawn")]
    num_tasks = max(len(config.data.tasks) for config in known_configs(sweep))
    terms = Terms(
        sweep.search.num_samples,
        min(slots.max_concurrent_trials, sweep.search.num_samples),
        slots.gpus_per_trial,
        results.usd_per_hour or None,
        sweep.keep_pruned_top,
        num_tasks,
        min(sweep.search.num_probes, sweep.search.num_samples),
    )
    return forecast(first, drawn, partial(new_rungs, sweep), terms, sweep.search.seed)


def _check_limits(
    plan: Plan, sweep: SweepConfig, results: ProbeResults, slots: Slots, storage: Path
) -> None:
    """Compare the forecast with the free disk space and the budget."""
    estimate, free = plan.forecast, _free(storage)
    assert estimate is not None
    gigabytes = f"up to {estimate.disk_bytes / 1e9:.1f} GB are"
    needed = f"{gigabytes} needed in {storage}, {free / 1e9:.1f} are free"
    if storage_of(storage).is_remote:
        plan.warn("disk", f"{gigabytes} written")
    elif estimate.disk_bytes > free:
        fix = "free disk space, or keep less: keep_pruned_top, search.num_samples"
        plan.fail("disk", needed, fix)
    elif estimate.disk_bytes > free / 2:
        plan.warn("disk", needed)
    budget = sweep.budget
    limits = {
        "max_hours": (budget.max_hours, estimate.hours, 1.0),
        "max_gpu_hours": (budget.max_gpu_hours, estimate.gpu_hours, slots.gpus_per_trial),
        "max_usd": (budget.max_usd, estimate.usd, results.usd_per_hour),
    }
    shortest = min(map(_hours, results.rehearsals.values()))
    for key, (limit, whole, share) in limits.items():
        if limit is None or whole is None:
            continue
        if shortest * share > limit:
            plan.fail("budget", f"{key}={limit:g} is used up before the first trial could finish")
        elif whole.high > limit:
            plan.warn(
                "budget", f"{key}={limit:g} may end it early; all of it takes {whole.high:.2g}"
            )


def _hours(cost: Rehearsal) -> float:
    """Return the hours of a trial that is not stopped."""
    seconds = cost.start_seconds
    for stage in cost.stages:
        steps = zip(stage.num_steps, stage.step_seconds, strict=True)
        epoch = sum(count * sum(times) / len(times) for count, times in steps) + stage.eval_seconds
        seconds += epoch * stage.num_epochs
    return seconds / 3600


def _free(storage: Path) -> int:
    return shutil.disk_usage(storage).free
