"""The typed configuration of a trial: frozen, unknown keys refused, defaults = the baseline.

A dotted name (`optim.lr`) is the field here, the YAML path, the search-space key, the `key=value`
override and the MLflow param. `trainable.config.recipe` reads the values from files, environment
and command line.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from trainable.config.loss_sections import Distill, Loss
from trainable.config.sections import (
    Batching,
    Data,
    Model,
    Optim,
    Pretrain,
    Probe,
    Section,
    Swa,
    Train,
)
from trainable.config.tasks import PAPER_TASKS, Kind, Task

_KIND = re.compile(r"tasks\.[^.]+\.kind")


class Config(Section):
    """All settings that affect a trial's results. The defaults are the paper's baseline."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of initial heads, batches, dropout and subsampling."""
    pretrain: Pretrain = Pretrain()
    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    batching: Batching = Batching()
    optim: Optim = Optim()
    train: Train = Train()
    probe: Probe = Probe()
    swa: Swa = Swa()
    distill: Distill = Distill()
    tasks: dict[str, Task] = Field(default_factory=dict)
    """Tasks of your own: name -> kind, files, columns, num_classes, metric."""

    def task_records(self) -> dict[str, Task]:
        """The tasks that are trained, in the order of `data.tasks`."""
        known = PAPER_TASKS | self.tasks
        return {name: known[name] for name in self.data.tasks}

    def flat(self) -> dict[str, Any]:
        """Dotted name -> JSON value; the inverse of `parse.from_flat`."""
        values = self.model_dump(mode="json")
        if not self.tasks:
            del values["tasks"]
        return flatten(values)


def default_technique_tasks(values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of `loss.mnr.tasks`, `loss.simcse.tasks` and `pretrain.tasks` where user-defined
    tasks are trained: the trained similarity tasks for the losses, all trained tasks with labels
    for pre-training. {} where only the paper's tasks are trained.

    Args:
        values: dotted settings.
    """
    names, kinds = values.get("data.tasks"), {name: task.kind for name, task in PAPER_TASKS.items()}
    own = {key.split(".")[1]: kind for key, kind in values.items() if _KIND.fullmatch(key)}
    kinds |= own
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return {}  # validation refuses it
    if not set(own) & set(names) or set(names) - set(kinds):
        return {}
    similar = [name for name in names if kinds[name] == Kind.SIMILARITY]
    labelled = [name for name in names if kinds[name] != Kind.ENTAILMENT]
    losses = {"loss.mnr.tasks": similar, "loss.simcse.tasks": similar}
    return losses | ({"pretrain.tasks": labelled} if labelled else {})


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
