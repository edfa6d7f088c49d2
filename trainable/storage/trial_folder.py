"""A trial's folder: records, predictions, weights and checkpoints, each written atomically.

config.json  epochs/0007.json  epochs/0007.decision.json  predictions/0007.parquet
weights/0007/  encoder/  checkpoint/  attempts/0001.json  outcome.json
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow_setup.errors import ConfigError, IntegrityError
from mlflow_setup.filesystem.atomic import (
    atomic_folder,
    remove_file,
    remove_folder,
    write_atomic,
    write_whole,
)
from mlflow_setup.filesystem.manifest import find_damage, write_manifest
from mlflow_setup.filesystem.paths import files_inside, inside
from mlflow_setup.filesystem.storage import remove_leftovers, storage_of
from mlflow_setup.schema import (
    PREDICTIONS_ARTIFACT,
    UNKNOWN_DATA,
    AttemptRecord,
    Decision,
    EpochRecord,
    OutcomeRecord,
    TrialRecord,
    TrialSnapshot,
    prediction_path,
)
from trainable.config.config import Config
from trainable.storage.layout import ATTEMPTS, MANIFESTS, RECORDS
from trainable.storage.predictions import Predictions, write_predictions
from trainable.storage.sound_records import sound_records
from trainable.storage.system_samples import read_samples

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class TrialFolder:
    """Reads and writes one trial's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refresh(self) -> None:
        """Update the local records from the storage.

        Raises:
            StorageError: an object store cannot be read now.
        """
        storage_of(self.path).pull(self.path, *RECORDS, *MANIFESTS)

    @property
    def checkpoint_dir(self) -> Path:
        return self.path / "checkpoint"

    @property
    def outcome_path(self) -> Path:
        return self.path / "outcome.json"

    @property
    def encoder_dir(self) -> Path:
        """The encoder's folder, which may not exist. Raises StorageError if it cannot be
        fetched."""
        storage_of(self.path).fetch(self.path / "encoder")
        return self.path / "encoder"

    def weights_dir(self, epoch: int) -> Path:
        """The folder of an epoch's weights, which may not exist.

        Raises:
            IntegrityError: it is a link to a place outside the trial's folder.
        """
        return inside(self.path, f"weights/{epoch:04d}")

    def predictions_path(self, epoch: int) -> Path:
        """The file of an epoch's predictions for all tasks, which may not exist.

        Raises:
            IntegrityError: its folder is a link to a place outside the trial's folder.
        """
        return inside(self.path, f"{PREDICTIONS_ARTIFACT}/{prediction_path(epoch)}")

    def create(self, record: TrialRecord) -> None:
        """Write `config.json`, or check that the existing one has the same configuration and data.
        The record of a trial that failed before it had read its data is replaced.

        Raises:
            ConfigError: the folder belongs to a trial with another configuration or other data.
        """
        path = self.path / "config.json"
        stored = self.trial() if path.exists() else None
        if stored is None or stored.data_fingerprint == UNKNOWN_DATA != record.data_fingerprint:
            write_atomic(path, record.to_json())
            return
        before = Config().flat() | stored.config  # defaults for settings that are newer
        different = [
            f"{key}={before.get(key)!r}, now {record.config.get(key)!r}"
            for key in sorted(set(stored.config) | set(record.config))
            if before.get(key) != record.config.get(key)
        ]
        if stored.data_fingerprint != record.data_fingerprint:
            different.append("the data has changed")
        if different:
            raise ConfigError(
                f"{self.path}: has a trial with another configuration: {'; '.join(different)}",
                fix="choose another name or folder, or remove this one",
            )

    def relocate(self, record: TrialRecord) -> None:
        """Replace `config.json`, to resume a trial whose input files were moved."""
        write_atomic(self.path / "config.json", record.to_json())

    def trial(self) -> TrialRecord:
        """The record in `config.json`. Raises IntegrityError if it is missing or damaged."""
        path = self.path / "config.json"
        try:
            return TrialRecord.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"{path}: no trial record: {error}",
                fix="restore it from its copy, the artifact config.json of the trial's MLflow run",
            ) from None

    def write_epoch(self, record: EpochRecord) -> None:
        write_atomic(self._epoch_path(record.epoch), record.to_json())

    def epochs(self) -> list[EpochRecord]:
        """Completed epochs from 1 on; a missing or damaged record ends the list.

        Raises:
            OSError: a record exists but cannot be read now.
        """
        records: list[EpochRecord] = []
        while (record := self.epoch(len(records) + 1)) is not None:
            records.append(record)
        return records

    def epoch(self, epoch: int) -> EpochRecord | None:
        """The record of one epoch, from 1; None: missing or damaged.

        Raises:
            OSError: the record exists but cannot be read now.
        """
        try:
            record = EpochRecord.from_json(self._epoch_path(epoch).read_text(encoding="utf-8"))
        except (*_MISSING, ValueError):
            return None
        return record if record.epoch == epoch else None

    def write_predictions(self, epoch: int, predictions: Sequence[Predictions]) -> None:
        """Write an epoch's predictions for all tasks, in one file."""
        write_predictions(self.predictions_path(epoch), predictions)

    def write_decision(
        self, decision: Decision, sync_later: Callable[[Path], None] | None = None
    ) -> None:
        """Write a decision of the scheduler.

        Args:
            sync_later: called with the file, which the callee must sync to disk; None: it is synced
                when this returns.
        """
        path = self._epoch_path(decision.epoch).with_suffix(".decision.json")
        if sync_later is None:
            write_atomic(path, decision.to_json())
        else:
            write_whole(path, decision.to_json())
            sync_later(path)

    def decisions(self) -> list[Decision]:
        """The scheduler's decisions, by epoch, without damaged records."""
        return sound_records(Decision, self.path.glob("epochs/[0-9]*.decision.json"))

    def attempts(self) -> list[AttemptRecord]:
        """The records of the processes that have run the trial, without damaged ones."""
        return sound_records(AttemptRecord, self.path.glob(f"{ATTEMPTS}/[0-9]*.json"))

    def write_outcome(self, record: OutcomeRecord) -> None:
        """Write how the trial ended. Only the outcome `stopped` can be replaced."""
        stored = self.outcome()
        if stored is None or not stored.outcome.is_terminal:
            write_atomic(self.outcome_path, record.to_json())

    def outcome(self) -> OutcomeRecord | None:
        """How the trial ended; None: it has not ended, or the record is damaged.

        Raises:
            OSError: the record exists but cannot be read now, so the trial must not run again.
        """
        try:
            text = self.outcome_path.read_text(encoding="utf-8")
            return OutcomeRecord.from_json(text)
        except (*_MISSING, ValueError):
            return None

    def reopen(self) -> None:
        """Remove the outcome of a trial that was stopped, before it is resumed."""
        stored = self.outcome()
        if stored is not None and not stored.outcome.is_terminal:
            self.drop_outcome()

    def drop_outcome(self) -> None:
        """Remove the outcome, so that the trial can be resumed."""
        remove_file(self.outcome_path)

    def kept_epochs(self) -> list[int]:
        """The epochs whose weights exist."""
        folder = self.path / "weights"
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())

    def keep_weights(self, epoch: int, write: Callable[[Path], None]) -> None:
        """Write an epoch's weights atomically: `write` fills a temporary folder, a manifest with
        the SHA-256 and size of each file is added, and the folder is renamed.
        """
        self.drop_weights(epoch)
        with atomic_folder(self.weights_dir(epoch)) as temporary:
            write(temporary)
            write_manifest(temporary, {"epoch": epoch})

    def require_weights(self, epoch: int) -> Path:
        """The folder of an epoch's weights, verified by its manifest.

        Raises:
            IntegrityError: the weights are missing or damaged.
        """
        folder = self.fetch_weights(epoch)
        damage = find_damage(folder, {"epoch": epoch})
        if damage is not None:
            raise IntegrityError(
                f"{folder}: weights are damaged: {damage}",
                fix="leave the trial out, or train it again in another folder",
            )
        return folder

    def fetch_weights(self, epoch: int) -> Path:
        """The folder of an epoch's weights. Raises StorageError if it cannot be fetched."""
        folder = self.weights_dir(epoch)
        storage_of(folder).fetch(folder)
        return folder

    def keep_encoder(self, write: Callable[[Path], None]) -> None:
        """Write the encoder's folder by `write`, if it does not exist."""
        if not self.encoder_dir.exists():
            with atomic_folder(self.encoder_dir) as temporary:
                write(temporary)

    def drop_weights(self, epoch: int) -> None:
        remove_folder(self.weights_dir(epoch))

    def drop_checkpoint(self) -> None:
        remove_folder(self.checkpoint_dir)

    def forget_after(self, epoch: int) -> None:
        """Remove the files of later epochs, which will be repeated, and leftovers of a crash."""
        for folder in (self.path, *(path for path in self.path.glob("**/") if path.is_dir())):
            remove_leftovers(folder)
        for path in [*files_inside(self.path, "epochs/*.json"), *self._prediction_files()]:
            number = path.name.split(".")[0]
            if number.isdecimal() and int(number) > epoch:
                remove_file(path)
        for kept in self.kept_epochs():
            if kept > epoch:
                self.drop_weights(kept)

    def snapshot(self) -> TrialSnapshot:
        """Everything that is copied to the trial's MLflow run."""
        epochs = self.epochs()
        root = self.path / PREDICTIONS_ARTIFACT
        return TrialSnapshot(
            record=self.trial(),
            epochs=tuple(epochs),
            outcome=self.outcome(),
            predictions={
                path.relative_to(root).as_posix(): path
                for path in self._prediction_files()
                if int(path.stem) <= len(epochs)
            },
            weights_uri=storage_of(self.path).address((self.path / "weights").resolve()),
            kept_epochs=tuple(self.kept_epochs()),
            attempts=tuple(self.attempts()),
            system=tuple(read_samples(self.path / ATTEMPTS)),
        )

    def _prediction_files(self) -> list[Path]:
        files = files_inside(self.path, f"{PREDICTIONS_ARTIFACT}/*.parquet")
        return [path for path in files if path.stem.isdecimal()]

    def _epoch_path(self, epoch: int) -> Path:
        return self.path / "epochs" / f"{epoch:04d}.json"
