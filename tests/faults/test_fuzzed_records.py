"""D7: records and manifests with changed bytes are refused, or read as they were written."""

import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_table import Table
from scale import how_often

from ensemble.bundle.format import ENSEMBLE, Bundle, Contents
from mlflow_setup.errors import EnsweepError
from mlflow_setup.filesystem.manifest import MANIFEST, find_damage
from mlflow_setup.schema import Decision, EpochRecord, OutcomeRecord, TrialRecord
from search.storage.sweep_folder import SWEEP_FILE, SweepFolder

RELEASE = Path(__file__).resolve().parents[1] / "data" / "release.tar.xz"
NUM_EACH = how_often(250, 6_250, 40)
"""The number of changes of each of the eight kinds of file."""


@dataclass(frozen=True)
class Fuzzed:
    """A file and its reader, which must return the same value or raise one of two errors."""

    path: Path
    read: Callable[[], object]
    must_be_equal: bool = True


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Fuzzed]]:
    root = tmp_path_factory.mktemp("release")
    with tarfile.open(RELEASE) as packed:
        packed.extractall(root, filter="data")
    storage, bundle = root / "runs", root / "bundle"
    trial = storage / "s" / "trials" / "0001"
    decision = trial / "epochs" / "0001.decision.json"
    decision.write_text(Decision(1, "continue", "no rung").to_json())
    weights = trial / "weights" / "0001"

    def record(path: Path, kind: type) -> Fuzzed:
        return Fuzzed(path, lambda: kind.from_json(path.read_text(encoding="utf-8")))  # type: ignore[attr-defined]

    def whole_weights() -> None:
        if damage := find_damage(weights, {"epoch": 1}):
            raise ValueError(damage)

    def contents() -> Contents:
        return Bundle.load(bundle).contents

    yield {
        "trial": record(trial / "config.json", TrialRecord),
        "epoch": record(trial / "epochs" / "0001.json", EpochRecord),
        "decision": record(decision, Decision),
        "outcome": record(trial / "outcome.json", OutcomeRecord),
        "manifest of weights": Fuzzed(weights / MANIFEST, whole_weights),
        "manifest of a bundle": Fuzzed(bundle / MANIFEST, contents),
        "contents of a bundle": Fuzzed(bundle / ENSEMBLE, contents),
        # users may change a sweep: any valid value is accepted
        "sweep": Fuzzed(storage / "s" / SWEEP_FILE, SweepFolder(storage, "s").read, False),
    }
    shutil.rmtree(root)


def changed(content: bytes, draw: random.Random) -> bytes:
    """Flip, delete or insert one to four bytes, or truncate the content."""
    mutated = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(mutated))
        match draw.randrange(4):
            case 0:
                mutated[place] ^= 1 << draw.randrange(8)
            case 1:
                del mutated[place]
            case 2:
                mutated[place:place] = draw.choice([b'"', b"{", b"[", b"0", b"-", b",", b"\0"])
            case 3 if draw.random() < 0.1:
                del mutated[max(8, place) :]
    return bytes(mutated)


@pytest.mark.promise(
    "D7",
    "records, manifests and a bundle's contents with changed bytes",
    "refused by name, or read as they were written; no crash",
)
def test_d7_changed_records_are_refused_or_read_unchanged(
    files: dict[str, Fuzzed], table: Table
) -> None:
    table.played(NUM_EACH * len(files))
    draw = random.Random(0)
    for name, fuzzed in files.items():
        content, value = fuzzed.path.read_bytes(), fuzzed.read()
        num_refused = 0
        for _ in range(NUM_EACH):
            fuzzed.path.write_bytes(changed(content, draw))
            try:
                assert fuzzed.read() == value or not fuzzed.must_be_equal, name
            except (EnsweepError, ValueError):
                num_refused += 1
        fuzzed.path.write_bytes(content)
        assert fuzzed.read() == value
        assert num_refused > NUM_EACH // 2, name
