"""The trial of a `weights_uri`, as MLflow runs store it."""

from pathlib import Path

from mlflow_setup.filesystem.opening import storage_folder
from mlflow_setup.uris import is_uri
from trainable.storage.trial_folder import TrialFolder


def trial_at(weights_uri: str) -> TrialFolder:
    """The trial's folder, with its current records; it may not exist.

    Args:
        weights_uri: `STORAGE/SWEEP/trials/TRIAL/weights`, a path or a storage URI.

    Raises:
        StorageError: an object store cannot be read now.
    """
    folder = Path(weights_uri).parent
    if is_uri(weights_uri):
        storage, *names, _ = weights_uri.rsplit("/", 4)
        folder = storage_folder(storage).joinpath(*names)
    trial = TrialFolder(folder)
    trial.refresh()
    return trial
