"""Dev and test cut from training rows: of each label alike, and by a seeded hash of the sentences,
so that the same sentences are on one side wherever they stand.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlflow_setup.errors import ConfigError
from trainable.config.tasks import Output, Split
from trainable.imports.finding import TableLayout

DEV_SHARE, TEST_SHARE = 0.2, 0.1
MAX_CUT = 2000
"""Rows of a split that is cut, at most, unless its share is given."""
_BINS = 10
"""Equal shares of scores that a cut takes alike."""

Row = tuple[str, tuple[str, ...], str]
"""Id, sentences, label ("": none)."""


@dataclass(frozen=True)
class Cut:
    """How a missing split is cut from the training rows; a share of 0: not at all."""

    dev: float | None = None  # share of the rows; None: `DEV_SHARE`, up to `MAX_CUT` rows
    test: float | None = None
    seed: int = 0

    @property
    def shares(self) -> dict[Split, float | None]:
        return {"dev": self.dev, "test": self.test}


CUT = Cut()


def with_cut(
    splits: dict[Split, list[Row]], layout: TableLayout, missing: Sequence[Split], cut: Cut
) -> tuple[dict[Split, list[Row]], tuple[Split, ...]]:
    """The splits with the missing ones cut from the training rows, and which were cut.

    Raises:
        ConfigError: the shares leave no row to train on, or to choose by.
    """
    usual: dict[Split, float] = {"dev": DEV_SHARE, "test": TEST_SHARE}
    num_rows = len(splits["train"])
    wanted: dict[Split, float] = {}
    for split in missing:
        share = cut.shares[split]
        wanted[split] = min(usual[split], MAX_CUT / num_rows) if share is None else share
    wanted = {split: share for split, share in wanted.items() if share > 0}
    if "dev" in missing and "dev" not in wanted:
        raise ConfigError("a task needs dev rows, to choose by", fix="--dev-share above 0")
    if sum(wanted.values()) >= 1:
        raise ConfigError(f"no row is left to train on: shares {wanted}")
    side = _sides(splits["train"], _strata(splits["train"], layout), wanted, cut.seed)
    parts: dict[Split, list[Row]] = {split: [] for split in ("train", *wanted)}
    for row, split in zip(splits["train"], side, strict=True):
        parts[split].append(row)
    whole = splits | parts
    order: tuple[Split, ...] = ("train", "dev", "test")
    return {split: whole[split] for split in order if split in whole}, tuple(wanted)


def _sides(
    rows: Sequence[Row], strata: Sequence[str], shares: dict[Split, float], seed: int
) -> list[Split]:
    """The split of each row. Within a stratum, groups of the same sentences are in the order of
    their hash; each split takes its share of them from the front."""
    keys = ["\0".join(sorted(" ".join(text.lower().split()) for text in row[1])) for row in rows]
    groups: dict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        groups[key].append(number)
    of_stratum: dict[str, list[str]] = defaultdict(list)
    for key, numbers in groups.items():
        of_stratum[strata[numbers[0]]].append(key)
    side: list[Split] = ["train"] * len(rows)
    owed = dict.fromkeys(shares, 0.0)
    for stratum in sorted(of_stratum):
        ordered = sorted(
            of_stratum[stratum],
            key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "replace")).digest(),
        )
        total = sum(len(groups[key]) for key in ordered)
        for split, share in shares.items():
            owed[split] += share * total  # what one stratum cannot give, the next ones do
            while len(ordered) > 1 and owed[split] >= len(groups[ordered[0]]) / 2:
                for number in groups[key := ordered.pop(0)]:
                    side[number] = split
                owed[split] -= len(groups[key])
    return side


def _strata(rows: Sequence[Row], layout: TableLayout) -> list[str]:
    """What is to be alike in all splits: the label, of scores their tenth."""
    labels = [label for _, _, label in rows]
    if layout.kind.output is not Output.SCORE:
        return labels
    scores = np.array([float(label) for label in labels])
    edges = np.quantile(scores, np.linspace(0, 1, _BINS + 1)[1:-1])
    return [str(place) for place in np.searchsorted(edges, scores).tolist()]
