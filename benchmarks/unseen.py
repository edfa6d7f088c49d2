"""Split rows off the paper's training files for a final evaluation.

    python benchmarks/unseen.py --data-dir DATA --output CUT
    ensweep sweep selective --name real --data-dir CUT/train data.on_bad_rows=skip
    ...
    ensweep evaluate bundle --data-dir CUT/unseen --split dev

A seeded hash of a row's sentences decides where it goes, so that equal rows stay together and the
split is the same on every machine. `CUT/train` has the remaining training rows, with dev and test
unchanged; `CUT/unseen` has the rows that were split off, under the names of the dev files.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

FILES = {"ids-sst": "sentiment", "quora": "paraphrase", "sts": "similarity"}


def main() -> None:
    """Write both folders; print how many rows each file has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--share", type=float, default=0.1, help="share of the training rows to split off"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train, unseen = options.output / "train", options.output / "unseen"
    for folder in (train, unseen):
        folder.mkdir(parents=True)
    for path in sorted(options.data_dir.glob("*.csv")):
        if not path.name.endswith("-train.csv"):
            shutil.copy(path, train)
    for prefix, task in FILES.items():
        source = options.data_dir / f"{prefix}-train.csv"
        header, *rows = source.read_text().splitlines(keepends=True)
        places = [i for i, name in enumerate(header.split("\t")) if name.startswith("sentence")]
        cut = [share_of(row, places, options.seed) < options.share for row in rows]
        kept = [row for row, goes in zip(rows, cut, strict=True) if not goes]
        away = [row for row, goes in zip(rows, cut, strict=True) if goes]
        (train / source.name).write_text("".join([header, *kept]))
        (unseen / f"{prefix}-dev.csv").write_text("".join([header, *away]))
        print(f"{task}: {len(kept)} training rows, {len(away)} unseen rows")


def share_of(row: str, places: list[int], seed: int) -> float:
    """A hash of a row's sentences as a number from 0 to 1, regardless of their order, case and
    whitespace."""
    cells = row.split("\t")
    sentences = sorted(" ".join(cells[i].lower().split()) for i in places if i < len(cells))
    digest = hashlib.sha256("\0".join([str(seed), *sentences]).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


if __name__ == "__main__":
    main()
