"""A sweep's folder: its configuration, its extensions, and the folders of its trials.

All files are JSON; nothing is unpickled. The trials' results are read by `search.storage.history`.
"""

import json
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow_setup.errors import ConfigError, IntegrityError, NothingUsableError
from mlflow_setup.filesystem.atomic import must_write, write_atomic
from mlflow_setup.filesystem.lease import refusal, running_driver
from mlflow_setup.filesystem.paths import refuse_uri, safe_name
from mlflow_setup.filesystem.storage import disk_bytes, storage_of
from mlflow_setup.schema import (
    CONFIG_ARTIFACT,
    SCHEMA_VERSION,
    TRAININGS,
    TrialSnapshot,
    version_problem,
)
from mlflow_setup.text import first_line, there_are
from mlflow_setup.uris import is_uri
from search.config.load import resolve_sweep
from search.config.sweep_config import SweepConfig
from search.storage.relocation import relocated
from trainable.config.strict_yaml import read_settings
from trainable.data.inputs import Inputs, inputs_from_json
from trainable.storage.layout import MANIFESTS, PREPARATION, RECORDS, STOP_FILE, TRIALS
from trainable.storage.trial_folder import TrialFolder

SWEEP_FILE, EXTENSIONS, INPUTS_FILE = "sweep.yaml", "extensions", "inputs.json"
SCHEMA = "schema_version"


STORAGE = "storage"
"""Key in the sweep's file: the storage folder in which the sweep was begun. Paths below it are
changed to paths below the storage folder in which the sweep is now."""


class SweepFolder:
    """Reads and writes `<storage>/<sweep>`."""

    def __init__(self, storage: Path, name: str) -> None:
        refuse_uri(storage, "--storage")
        self.path = storage.resolve() / safe_name(name, "sweep")
        self.name = name
        self.storage = storage_of(self.path)
        self.refresh()

    def refresh(self) -> None:
        """Update the records from the storage.

        Raises:
            StorageError: an object store cannot be read now.
        """
        of_trials = (f"{TRIALS}/*/{pattern}" for pattern in (*RECORDS, *MANIFESTS))
        of_what_is_shared = (f"{PREPARATION}/*/{pattern}" for pattern in RECORDS)
        self.storage.pull(self.path, "*", "*/*.json", *of_trials, *of_what_is_shared)

    def begin(self) -> None:
        """Make the folder equal to the storage's: a driver may have died before it uploaded or
        deleted a file."""
        self.storage.begin(self.path)
        self.refresh()

    @property
    def address_of_storage(self) -> str:
        """The path or URI of the storage folder."""
        return self.storage.address(self.path.parent)

    @property
    def stop_file(self) -> Path:
        """A file that exists while every trial is to stop at its next step."""
        return self.path / STOP_FILE

    def create(self, sweep: SweepConfig) -> None:
        """Create the folder and the sweep's file.

        Raises:
            ConfigError: the folder exists already (with its driver, if it has one) or cannot be
                written.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.storage.claim(self.path)
        except FileExistsError:
            raise self.taken() from None
        except OSError as error:
            fix = "set --storage"
            raise ConfigError(
                f"{self.path}: cannot be created: {first_line(error)}", fix=fix
            ) from None
        try:
            with must_write(self.path):
                content = {SCHEMA: SCHEMA_VERSION, STORAGE: self.address_of_storage}
                content |= sweep.to_file()
                write_atomic(self.path / SWEEP_FILE, json.dumps(content, indent=1) + "\n")
        except ConfigError:
            self.remove()
            raise

    def remove(self) -> None:
        """Delete the folder, so that the name is free again."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.storage.withdraw(self.path)

    def taken(self) -> ConfigError:
        """Return the error for starting a sweep of this name, which exists.

        Takes seconds if there is a lease, to see whether a driver renews it.
        """
        driver = running_driver(self.path)
        if driver is not None:
            return refusal(f"sweep {self.name}", driver)
        return self.name_taken(f"already exists: {self.storage.address(self.path)}")

    def name_taken(self, how: str) -> ConfigError:
        """Return the error for a name that another sweep has, as a folder or in MLflow."""
        fix = f"choose another name with --name, or resume it: {self.command('resume')}"
        return ConfigError(f"sweep {self.name!r} {how}", fix=fix)

    def command(self, verb: str) -> str:
        """Return the command `ensweep VERB` for this sweep, quoted for the shell."""
        return shlex.join(["ensweep", verb, self.name, "--storage", self.address_of_storage])

    def has_begun(self) -> bool:
        """Whether the sweep exists. A folder that a driver left incomplete is removed."""
        if (self.path / SWEEP_FILE).is_file():
            return True
        with suppress(OSError):  # there is no folder, or it has other files
            self.storage.give_back(self.path)
        return False

    def read(self, num_more: int = 0) -> SweepConfig:
        """Read the sweep, with the trials by which it was extended and `num_more`.

        Raises:
            NothingUsableError: there is no such sweep.
            IntegrityError: its file or an extension is damaged.
        """
        file = self.path / SWEEP_FILE
        if not file.is_file():
            if (self.path / TRIALS).is_dir():
                raise NothingUsableError(
                    f"{self.path}: has trials but no {SWEEP_FILE}, so it is no sweep",
                    fix="a training is resumed by the ensweep train command that started it",
                )
            raise NothingUsableError(
                f"no sweep {self.name!r} in {self.path.parent}"
                f"{there_are(self.name, sweep_names(self.path.parent))}",
                fix="--storage names the folder with the sweeps",
            )
        content = content_of(file)
        problem = version_problem(content.pop(SCHEMA, SCHEMA_VERSION), SCHEMA_VERSION)
        if problem is not None:
            raise IntegrityError(f"{file}: {problem}")
        old = begun_in(content, self.path.parent)
        content.pop(STORAGE, None)
        sweep = resolve_sweep(content, file, (), {})
        if old != self.path.parent:
            sweep = sweep.map_settings(lambda given: relocated(given, old, self.path.parent))
        num_more += sum(map(_read_extension, self._extensions()))
        num_samples = sweep.search.num_samples + num_more
        search = sweep.search.model_copy(update={"num_samples": num_samples})
        return sweep.model_copy(update={"name": self.name, "search": search})

    def extend(self, num_samples: int) -> None:
        """Extend the sweep by that many trials; raises ConfigError if it cannot be written."""
        path = self.path / EXTENSIONS / f"{len(self._extensions()) + 1:04d}.json"
        with must_write(path):
            write_atomic(path, json.dumps({"num_samples": num_samples}) + "\n")

    def write_inputs(self, inputs: Inputs) -> None:
        """Record the inputs of the trials; raises ConfigError if the file cannot be written."""
        with must_write(self.path / INPUTS_FILE):
            write_atomic(self.path / INPUTS_FILE, inputs.to_json())

    def inputs(self) -> Inputs:
        """Read the recorded inputs of the trials; empty if there is no record.

        Raises:
            IntegrityError: the file is damaged.
        """
        path = self.path / INPUTS_FILE
        if not path.is_file():
            return Inputs()
        try:
            inputs = inputs_from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError, IntegrityError) as error:
            raise IntegrityError(
                f"{path}: {error}",
                fix=f"rm {shlex.quote(str(path))}: the data are then used as they are now",
            ) from None
        old = begun_in(content_of(self.path / SWEEP_FILE), self.path.parent)
        return inputs.relocated(lambda place: relocated({"": place}, old, self.path.parent)[""])

    def trial_folders(self) -> list[TrialFolder]:
        """Return the folders of the trials that have begun, by name."""
        paths = sorted(path.parent for path in (self.path / TRIALS).glob(f"*/{CONFIG_ARTIFACT}"))
        return [TrialFolder(path) for path in paths]

    def trial(self, name: str) -> TrialFolder:
        return TrialFolder(self.path / TRIALS / safe_name(name, "trial"))

    def snapshots(self) -> tuple[TrialSnapshot, ...]:
        return tuple(folder.snapshot() for folder in self.trial_folders())

    def _extensions(self) -> list[Path]:
        return sorted((self.path / EXTENSIONS).glob("[0-9]*.json"))


def find_sweep(storage: Path, name: str | None = None) -> SweepFolder:
    """Return the sweep of that name, or the one that began last.

    Raises:
        NothingUsableError: there is none.
    """
    names = sweep_names(storage)[:1] if name is None else [name]
    folders = [SweepFolder(storage, each) for each in names]
    if not folders or not any((folders[0].path / own).exists() for own in (SWEEP_FILE, TRIALS)):
        others = "" if name is None else there_are(name, sweep_names(storage))
        what = "no sweep" if name is None else f"no sweep {name!r}"
        fix = "--storage names the folder with the sweeps"
        raise NothingUsableError(f"{what} in {storage}{others}", fix=fix)
    return folders[0]


def sweep_names(storage: Path) -> list[str]:
    """Return the names of the sweeps in the storage folder, newest first, trainings at the end."""
    kept, owns = storage_of(storage), (SWEEP_FILE, TRIALS)
    folders = [storage / name for name in kept.names(storage)]
    for folder in folders:
        kept.pull_file(folder / SWEEP_FILE)
        if folder.name == TRAININGS:
            kept.pull(folder, f"{TRIALS}/*/{CONFIG_ARTIFACT}")
    folders = [folder for folder in folders if any((folder / own).exists() for own in owns)]
    names = [folder.name for folder in sorted(folders, key=_began, reverse=True)]
    return sorted(names, key=TRAININGS.__eq__)


def _began(folder: Path) -> tuple[int, str]:
    """Return the sort key by time: when the sweep's file, which is written once, was written."""
    file = folder / SWEEP_FILE
    return (file if file.is_file() else folder / TRIALS).stat().st_mtime_ns, folder.name


def begun_in(content: Mapping[str, Any], now: Path) -> Path:
    """Return the storage folder in which a sweep was begun, from the content of its file.

    `now` if it is an object store, of which no local path is stored.
    """
    storage = content.get(STORAGE, str(now))
    if not isinstance(storage, str):
        raise IntegrityError(f"{SWEEP_FILE}: {STORAGE}: expected a folder, got {storage!r}")
    return now if is_uri(storage) else Path(storage)


def content_of(file: Path) -> dict[str, Any]:
    """Read the mapping in a sweep's file; raises IntegrityError if it has none."""
    fix = f"replace it by its copy: the artifact {SWEEP_FILE} of the sweep's run in MLflow"
    try:
        content = read_settings(file)
    except ConfigError as error:
        raise IntegrityError(error.problem, fix=fix) from None
    if not content:
        raise IntegrityError(f"{file}: is empty", fix=fix)
    return content


def _read_extension(path: Path) -> int:
    fix = 'write {"num_samples": N} into it, or remove it to leave out those trials'
    try:
        num_samples = json.loads(path.read_text(encoding="utf-8"))["num_samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: not an extension: {error}", fix=fix) from None
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        problem = f"{path}: num_samples must be a positive integer, got {num_samples}"
        raise IntegrityError(problem, fix=fix)
    return num_samples


def shortage(folder: SweepFolder, num_left: int) -> str:
    """Describe the free disk space and what the remaining trials need.

    Each is assumed to need as much as the largest trial so far: `1.2 of 64.0 MB are free on the
    sweep's disk; 5 trials that are left need about 15.5 MB`.
    """
    disk = shutil.disk_usage(folder.path)
    free = f"{disk.free / 1e6:.1f} of {disk.total / 1e6:.1f} MB are free on the sweep's disk"
    largest = max((disk_bytes(trial.path) for trial in folder.trial_folders()), default=0)
    if not largest or not num_left:
        return free
    return f"{free}; {num_left} trials that are left need about {num_left * largest / 1e6:.1f} MB"
