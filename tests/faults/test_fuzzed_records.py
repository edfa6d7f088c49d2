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
"""Of eight kinds of file: 2,000 and 50,000 in all."""


@dataclass(frozen=True)
class Fuzzed:
    """A file, and what reads it: the same value as before, or an error of ours or a ValueError."""

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
        # a sweep is its user's to change: of it only that nothing crashes is promised
        "sweep": Fuzzed(storage / "s" / SWEEP_FILE, SweepFolder(storage, "s").read, False),
    }
    shutil.rmtree(root)


def changed(content: bytes, draw: random.Random) -> bytes:
    """One to four bytes flipped, left out or put in; or the rest cut off."""
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
def test_d7_changed_records_are_refused(files: dict[str, Fuzzed], table: Table) -> None:
    table.played(NUM_EACH * len(files))
    draw = random.Random(0)
    for name, fuzzed in files.items():
        whole, sound = fuzzed.path.read_bytes(), fuzzed.read()
        num_refused = 0
        for _ in range(NUM_EACH):
            fuzzed.path.write_bytes(changed(whole, draw))
            try:
                assert fuzzed.read() == sound or not fuzzed.must_be_equal, name
            except (EnsweepError, ValueError):
                num_refused += 1
        fuzzed.path.write_bytes(whole)
        assert fuzzed.read() == sound
        assert num_refused > NUM_EACH // 2, name
