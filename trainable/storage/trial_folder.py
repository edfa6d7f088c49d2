"""A trial's folder: whole objects, each written once, that everything later is read from.

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
from trainable.storage.layout import ATTEMPTS, RECORDS, WHAT_IS_KEPT
from trainable.storage.predictions import Predictions, write_predictions
from trainable.storage.sound_records import sound_records
from trainable.storage.system_samples import read_samples

_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class TrialFolder:
    """Reads and writes one trial's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refresh(self) -> None:
        """Have the records be those that the storage has now.

        Raises:
            StorageError: an object store cannot be read now.
        """
        storage_of(self.path).pull(self.path, *RECORDS, *WHAT_IS_KEPT)

    @property
    def checkpoint_dir(self) -> Path:
        return self.path / "checkpoint"

    @property
    def outcome_path(self) -> Path:
        return self.path / "outcome.json"

    @property
    def encoder_dir(self) -> Path:
        """The encoder's folder, there or not; raises StorageError where it cannot be fetched."""
        storage_of(self.path).fetch(self.path / "encoder")
        return self.path / "encoder"

    def weights_dir(self, epoch: int) -> Path:
        """The folder of an epoch's weights, there or not.

        Raises:
            IntegrityError: it is a link that leads out of the trial's folder.
        """
        return inside(self.path, f"weights/{epoch:04d}")

    def predictions_path(self, epoch: int) -> Path:
        """The file of an epoch's predictions for all tasks, there or not.

        Raises:
            IntegrityError: the folder is a link that leads out of the trial's.
        """
        return inside(self.path, f"{PREDICTIONS_ARTIFACT}/{prediction_path(epoch)}")

    def create(self, record: TrialRecord) -> None:
        """Write `config.json`, once; a folder of the same configuration and data is entered again.
        The record of a trial that failed before it had read its data is replaced.

        Raises:
            ConfigError: the folder holds a trial of another configuration or other data.
        """
        path = self.path / "config.json"
        stored = self.trial() if path.exists() else None
        if stored is None or stored.data_fingerprint == UNKNOWN_DATA != record.data_fingerprint:
            write_atomic(path, record.to_json())
            return
        before = Config().flat() | stored.config  # settings made since have had their defaults
        different = [
            f"{key}={before.get(key)!r}, now {record.config.get(key)!r}"
            for key in sorted(set(stored.config) | set(record.config))
            if before.get(key) != record.config.get(key)
        ]
        if stored.data_fingerprint != record.data_fingerprint:
            different.append("the data has changed")
        if different:
            raise ConfigError(
                f"{self.path}: holds a trial of another configuration: {'; '.join(different)}",
                fix="choose another name or folder, or remove this one",
            )

    def relocate(self, record: TrialRecord) -> None:
        """Write `config.json` anew, so that a trial that is to go on finds what was moved."""
        write_atomic(self.path / "config.json", record.to_json())

    def trial(self) -> TrialRecord:
        """Raises IntegrityError when `config.json` is missing or damaged."""
        path = self.path / "config.json"
        try:
            return TrialRecord.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"{path}: no trial record: {error}",
                fix="put its copy in its place: the artifact config.json of the trial's MLflow run",
            ) from None

    def write_epoch(self, record: EpochRecord) -> None:
        write_atomic(self._epoch_path(record.epoch), record.to_json())

    def epochs(self) -> list[EpochRecord]:
        """Completed epochs from 1 on; a missing or damaged record ends the list.

        Raises:
            OSError: a record is there and cannot be read now.
        """
        records: list[EpochRecord] = []
        while (record := self.epoch(len(records) + 1)) is not None:
            records.append(record)
        return records

    def epoch(self, epoch: int) -> EpochRecord | None:
        """The record of one epoch, from 1; None where it is missing or damaged.

        Raises:
            OSError: the record is there and cannot be read now.
        """
        try:
            record = EpochRecord.from_json(self._epoch_path(epoch).read_text(encoding="utf-8"))
        except (*_NOT_THERE, ValueError):
            return None
        return record if record.epoch == epoch else None

    def write_predictions(self, epoch: int, predictions: Sequence[Predictions]) -> None:
        """Write the predictions of all tasks after an epoch, in one file."""
        write_predictions(self.predictions_path(epoch), predictions)

    def write_decision(
        self, decision: Decision, sync_later: Callable[[Path], None] | None = None
    ) -> None:
        """Args:
        sync_later: is given the file, to have it put on disk; None: it is when the call returns.
        """
        path = self._epoch_path(decision.epoch).with_suffix(".decision.json")
        if sync_later is None:
            write_atomic(path, decision.to_json())
        else:
            write_whole(path, decision.to_json())
            sync_later(path)

    def decisions(self) -> list[Decision]:
        """What the scheduler said, by epoch; damaged records are left out."""
        return sound_records(Decision, self.path.glob("epochs/[0-9]*.decision.json"))

    def attempts(self) -> list[AttemptRecord]:
        """What each process's try at the trial used; damaged records are left out."""
        return sound_records(AttemptRecord, self.path.glob(f"{ATTEMPTS}/[0-9]*.json"))

    def write_outcome(self, record: OutcomeRecord) -> None:
        """Write how the trial ended. Only a `stopped` outcome is replaced by a later one."""
        stored = self.outcome()
        if stored is None or not stored.outcome.is_terminal:
            write_atomic(self.outcome_path, record.to_json())

    def outcome(self) -> OutcomeRecord | None:
        """How the trial ended; None while it has not, or where the record is damaged.

        Raises:
            OSError: the record is there and cannot be read now. The trial is not to be run again.
        """
        try:
            text = self.outcome_path.read_text(encoding="utf-8")
            return OutcomeRecord.from_json(text)
        except (*_NOT_THERE, ValueError):
            return None

    def reopen(self) -> None:
        """A trial that was stopped runs again: it has no outcome until it ends."""
        stored = self.outcome()
        if stored is not None and not stored.outcome.is_terminal:
            self.drop_outcome()

    def drop_outcome(self) -> None:
        """The trial is to run on."""
        remove_file(self.outcome_path)

    def kept_epochs(self) -> list[int]:
        """Epochs whose weights are there."""
        folder = self.path / "weights"
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())

    def keep_weights(self, epoch: int, write: Callable[[Path], None]) -> None:
        """Have `write` fill a folder that becomes the epoch's weights, whole or not at all.

        A manifest with the SHA-256 and size of each file is written last.
        """
        self.drop_weights(epoch)
        with atomic_folder(self.weights_dir(epoch)) as temporary:
            write(temporary)
            write_manifest(temporary, {"epoch": epoch})

    def require_weights(self, epoch: int) -> Path:
        """The folder of an epoch's weights, proved to be what training wrote.

        Raises:
            IntegrityError: not kept, or damaged.
        """
        folder = self.fetch_weights(epoch)
        damage = find_damage(folder, {"epoch": epoch})
        if damage is not None:
            raise IntegrityError(
                f"{folder}: weights are not whole: {damage}",
                fix="leave the trial out, or train it again in another folder",
            )
        return folder

    def fetch_weights(self, epoch: int) -> Path:
        """The folder of an epoch's weights; raises StorageError where it cannot be fetched."""
        folder = self.weights_dir(epoch)
        storage_of(folder).fetch(folder)
        return folder

    def keep_encoder(self, write: Callable[[Path], None]) -> None:
        """Have `write` fill the encoder's folder, once."""
        if not self.encoder_dir.exists():
            with atomic_folder(self.encoder_dir) as temporary:
                write(temporary)

    def drop_weights(self, epoch: int) -> None:
        remove_folder(self.weights_dir(epoch))

    def drop_checkpoint(self) -> None:
        remove_folder(self.checkpoint_dir)

    def forget_after(self, epoch: int) -> None:
        """Remove what later epochs left, and leftovers of a crash: they will be run again."""
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
        """All that is projected onto the trial's MLflow run."""
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
