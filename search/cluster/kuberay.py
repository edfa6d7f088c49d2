"""The parts of a RayJob file: its groups of pods and its command."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.cluster.findings import mapping
from search.config.load import read_sweep
from search.config.sweep_config import SweepConfig
from trainable.config.strict_yaml import is_settings_file

CLUSTER = "spec.rayClusterSpec"

ACCELERATORS = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")


@dataclass(frozen=True)
class Group:
    """The head or a worker group."""

    place: str
    is_head: bool
    written: Mapping[str, Any]

    @property
    def pod(self) -> Mapping[str, Any]:
        return mapping(mapping(self.written.get("template")).get("spec"))

    @property
    def container(self) -> Mapping[str, Any]:
        """The Ray container, which is the first."""
        return next(iter(_mappings(self.pod.get("containers"))), {})

    @property
    def limits(self) -> Mapping[str, Any]:
        return mapping(mapping(self.container.get("resources")).get("limits"))

    @property
    def num_gpus(self) -> float:
        params = mapping(self.written.get("rayStartParams"))
        given = params.get("num-gpus") or mapping(self.written.get("resources")).get("GPU")
        counts = [str(count) for count in (given, *map(self.limits.get, ACCELERATORS))]
        return max((float(count) for count in counts if count.isdecimal()), default=0.0)

    @property
    def env(self) -> dict[str, Mapping[str, Any]]:
        return {str(entry.get("name")): entry for entry in _mappings(self.container.get("env"))}

    @property
    def mounts(self) -> list[str]:
        volumes = _mappings(self.container.get("volumeMounts"))
        return [str(volume.get("mountPath")) for volume in volumes]


def groups_of(cluster: Mapping[str, Any]) -> Iterator[Group]:
    """Yield the head's group, then the worker groups."""
    yield Group(f"{CLUSTER}.headGroupSpec", True, mapping(cluster.get("headGroupSpec")))
    for number, group in enumerate(_mappings(cluster.get("workerGroupSpecs"))):
        name = group.get("groupName", number)
        yield Group(f"{CLUSTER}.workerGroupSpecs.{name}", False, group)


@dataclass(frozen=True)
class Command:
    """The entrypoint's `ensweep` command."""

    verb: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, entrypoint: str) -> "Command":
        try:
            words = shlex.split(entrypoint)
        except ValueError:
            return cls("", ())
        for number, word in enumerate(words):
            if word.rpartition("/")[2] == "ensweep" and number + 1 < len(words):
                return cls(words[number + 1], tuple(words[number + 2 :]))
        return cls("", ())

    def option(self, name: str) -> str | None:
        """Return the value of `--name value` or `--name=value`."""
        for word, following in zip(self.words, (*self.words[1:], ""), strict=False):
            if word == name:
                return following
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return None

    def sweep(self) -> SweepConfig | None:
        """Return the sweep that it runs, if it is a packaged one; else None.

        Raises:
            ConfigError: there is no such sweep, or an override is wrong.
        """
        if self.verb != "sweep" or not self.words:
            return None
        name = self.words[0]
        if is_settings_file(Path(name)):
            return None
        overrides = [w for w in self.words[1:] if "=" in w and not w.startswith("-")]
        return read_sweep(name, overrides, {}, is_run_here=False)


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [mapping(entry) for entry in value] if isinstance(value, list) else []
