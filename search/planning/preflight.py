"""Checks before a sweep starts a trial: a free name, and data without errors."""

from collections.abc import Iterable, Sequence

from mlflow_setup.errors import DataError
from mlflow_setup.runs.query import tracked_sweeps
from mlflow_setup.schema import UNKNOWN_DATA
from mlflow_setup.tracking.store import Tracking
from mlflow_setup.uris import is_uri
from search.config.sweep_config import SweepConfig, TrialSettings
from search.storage.history import PastTrial
from search.storage.sweep_folder import SweepFolder
from trainable.config.config import Config
from trainable.config.parse import from_flat
from trainable.data.dataset import Dataset, read_dataset
from trainable.data.inputs import Inputs, Source, changed_input, expecting
from trainable.data.remote import listing


def refuse_taken(folder: SweepFolder, tracking: Tracking) -> None:
    """Raise ConfigError if the sweep's folder exists, or its name is taken in MLflow."""
    if folder.path.exists():
        raise folder.taken()
    tracking.check()
    if folder.name in tracked_sweeps(tracking):
        raise folder.name_taken("is already tracked in MLflow")


def known_configs(sweep: SweepConfig) -> list[Config]:
    """Return the configurations known before the search draws: those of the first trials, and the
    base of the others if there are any."""
    num_first = len(sweep.first_trials)
    starts: list[TrialSettings] = [sweep.first(number)[0] for number in range(num_first)]
    if sweep.search.num_samples > num_first:
        starts.append(sweep.base())
    return [from_flat(start.settings) for start in starts]


def unfinished_configs(history: Iterable[PastTrial]) -> list[Config]:
    """Return the configurations of the trials that have not ended."""
    return [from_flat(past.record.config) for past in history if not past.is_over]


def read_data(configs: Iterable[Config]) -> dict[str, Dataset]:
    """Read the data of the configurations, once for each distinct way to read them.

    Raises:
        DataError: the data have errors.
    """
    datasets: dict[str, Dataset] = {}
    for config in configs:
        key = _data_key(config)
        if key not in datasets:
            datasets[key] = read_dataset(config)
    return datasets


def read_inputs(sweep: SweepConfig, configs: Iterable[Config]) -> Inputs:
    """Return the inputs of trials: data, and encoders of the configurations and of the space.

    Each folder at a URI is listed once, and the data are read as of that listing.

    Raises:
        DataError: the data have errors.
        ConfigError, PartialError: as `trainable.data.remote.listing`.
    """
    wanted = list(configs)
    folders = {uri: listing(uri) for uri in sorted(_uris(sweep, wanted))}
    examples: dict[Source, str] = {}
    with expecting(Inputs({}, folders)):
        for dataset in read_data(wanted).values():
            examples |= dataset.sources
    return Inputs(examples, folders)


def _uris(sweep: SweepConfig, configs: Iterable[Config]) -> set[str]:
    drawn = getattr(sweep.space.get("model.encoder"), "choices", None) or ()
    encoders = {config.model.encoder for config in configs} | set(map(str, drawn))
    return {each for each in encoders | {c.data.dir or "" for c in configs} if is_uri(each)}


def _data_key(config: Config) -> str:
    return repr((config.data, config.tasks, config.seed))


def refuse_other_inputs(known: Inputs, inputs: Inputs) -> None:
    """Check that the inputs are those of the sweep's start: its trials are compared.

    Raises:
        ChangedInputError: data or an encoder have changed.
    """
    changes = known.changes(inputs)
    if changes:
        raise changed_input(changes)


def refuse_other_data(history: Sequence[PastTrial], inputs: Inputs) -> None:
    """Check that unfinished trials would continue on the data that they began with.

    This also covers sweeps without a record of their inputs.

    Raises:
        DataError: the data have changed.
    """
    unfinished = {past.name: from_flat(past.record.config) for past in history if not past.is_over}
    with expecting(inputs):
        read = read_data(unfinished.values())
    began = {past.name: past.record.data_fingerprint for past in history}
    changed = [
        name
        for name, config in unfinished.items()
        if began[name] not in (read[_data_key(config)].fingerprint, UNKNOWN_DATA)
    ]
    if changed:
        raise DataError(
            f"the data have changed since {', '.join(changed)} began",
            fix="restore the files, or start a new sweep (--warm-start uses the results of this "
            "one)",
        )
