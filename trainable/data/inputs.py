"""The inputs of a sweep, fixed when it begins.

The driver records a fingerprint of each set of examples, and the versions of the files at each
storage URI. A read within `expecting` returns the same data or raises an error that ends the sweep.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlflow_setup.errors import DataError, IntegrityError
from mlflow_setup.filesystem.object_store import Version
from mlflow_setup.schema import SCHEMA_VERSION, version_problem
from mlflow_setup.text import short_hash
from mlflow_setup.uris import redact
from trainable.config.tasks import Split, Task

_SCHEMA = "schema_version"


class ChangedInputError(DataError):
    """Data or an encoder has changed since the sweep began."""


class Source(NamedTuple):
    """A file of a data folder, as a task reads it."""

    data_dir: str
    file: str
    reading: str  # task, split, and a hash of the task's settings


Listing = Mapping[str, Version]
"""The files of a folder at a URI, by name."""


@dataclass(frozen=True)
class Inputs:
    """Fingerprints of examples before subsampling, and the versions of the files at URIs."""

    examples: Mapping[Source, str] = field(default_factory=dict)
    folders: Mapping[str, Listing] = field(default_factory=dict)

    def changes(self, now: "Inputs") -> list[str]:
        """The inputs that `now` has in another version: data by content, encoders by the versions
        of their files."""
        encoders = set(self.folders) - {source.data_dir for source in now.examples}
        changed = (
            uri
            for uri, files in now.folders.items()
            if uri in encoders and files != self.folders[uri]
        )
        return changed_examples(self.examples, now.examples) + sorted(map(redact, changed))

    def relocated(self, move: Callable[[str], str]) -> "Inputs":
        """The same inputs, with the data folders renamed by `move`."""
        moved = {s._replace(data_dir=move(s.data_dir)): each for s, each in self.examples.items()}
        return Inputs(moved, self.folders)

    def with_more(self, more: "Inputs") -> "Inputs":
        """These inputs and those of `more`; for the same key, the examples of these and the folder
        of `more`."""
        return Inputs({**more.examples, **self.examples}, {**self.folders, **more.folders})

    def to_json(self) -> str:
        """The text of a file that `inputs_from_json` reads."""
        folders = {
            uri: {name: [each.num_bytes, each.mark] for name, each in sorted(files.items())}
            for uri, files in self.folders.items()
        }
        examples = [[*source, fingerprint] for source, fingerprint in self.examples.items()]
        content = {_SCHEMA: SCHEMA_VERSION, "examples": examples, "folders": folders}
        return json.dumps(content, indent=1) + "\n"


def inputs_from_json(text: str) -> Inputs:
    """The inverse of `Inputs.to_json`. Raises IntegrityError if the text is damaged."""
    try:
        content: dict[str, Any] = json.loads(text)
        problem = version_problem(content[_SCHEMA], SCHEMA_VERSION)
        if problem is None:
            return Inputs(
                {Source(*map(str, row[:3])): str(row[3]) for row in content["examples"]},
                {
                    uri: {
                        name: Version(int(size), str(mark)) for name, (size, mark) in files.items()
                    }
                    for uri, files in content["folders"].items()
                },
            )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        problem = f"not the inputs of a sweep: {error!r:.200}"
    raise IntegrityError(problem)


_expected: ContextVar[Inputs | None] = ContextVar("expected", default=None)


@contextmanager
def expecting(inputs: Inputs) -> Iterator[None]:
    """Within the block, reading data or folders that differ from `inputs` raises
    ChangedInputError."""
    token = _expected.set(inputs)
    try:
        yield
    finally:
        _expected.reset(token)


def expected_folder(uri: str) -> Listing | None:
    """The expected files at `uri`; None: no expectation."""
    inputs = _expected.get()
    return None if inputs is None else inputs.folders.get(uri)


def prove_examples(fingerprints: Mapping[Source, str]) -> None:
    """Raise ChangedInputError if the examples differ from the expected ones."""
    inputs = _expected.get()
    changed = [] if inputs is None else changed_examples(inputs.examples, fingerprints)
    if changed:
        raise changed_input(changed)


def changed_examples(known: Mapping[Source, str], fingerprints: Mapping[Source, str]) -> list[str]:
    """The files whose fingerprints are known and differ."""
    changed = {
        s.data_dir + "/" + s.file for s, each in fingerprints.items() if known.get(s, each) != each
    }
    return [redact(place) for place in sorted(changed)]


def changed_input(places: Iterable[str]) -> ChangedInputError:
    """The error for data or encoders that have changed since the sweep began."""
    return ChangedInputError(
        f"changed since the sweep began: {', '.join(places)}",
        fix="restore the files, or start a new sweep (--warm-start uses this one's results)",
    )


def source_of(data_dir: str, name: str, task: Task, split: Split) -> Source:
    """The `Source` of a task's split."""
    reading = f"{name} {split} {short_hash(task.model_dump_json())}"
    return Source(data_dir, task.files[split], reading)
