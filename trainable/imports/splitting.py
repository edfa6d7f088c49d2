"""Cutting dev and test splits from training rows: stratified by label, and by a seeded hash of the
sentences, so that rows with the same sentences are in the same split.
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
"""Maximum number of rows of a cut split, unless its share is given."""
_NUM_BINS = 10
"""Number of quantile bins by which scores are stratified."""

Row = tuple[str, tuple[str, ...], str]
"""ID, sentences, label ("": none)."""


@dataclass(frozen=True)
class Cut:
    """How missing splits are cut from the training rows; share 0: not at all."""

    dev: float | None = None  # share of the rows; None: `DEV_SHARE`, at most `MAX_CUT` rows
    test: float | None = None
    seed: int = 0

    @property
    def shares(self) -> dict[Split, float | None]:
        return {"dev": self.dev, "test": self.test}


CUT = Cut()


def with_cut(
    splits: dict[Split, list[Row]], layout: TableLayout, missing: Sequence[Split], cut: Cut
) -> tuple[dict[Split, list[Row]], tuple[Split, ...]]:
    """The splits, with the missing ones cut from the training rows, and the names of those.

    Raises:
        ConfigError: the shares leave no training rows or no dev rows.
    """
    usual: dict[Split, float] = {"dev": DEV_SHARE, "test": TEST_SHARE}
    num_rows = len(splits["train"])
    shares: dict[Split, float] = {}
    for split in missing:
        share = cut.shares[split]
        shares[split] = min(usual[split], MAX_CUT / num_rows) if share is None else share
    shares = {split: share for split, share in shares.items() if share > 0}
    if "dev" in missing and "dev" not in shares:
        raise ConfigError("a task needs dev rows, to choose by", fix="--dev-share above 0")
    if sum(shares.values()) >= 1:
        raise ConfigError(f"no row is left to train on: shares {shares}")
    assigned = _assign(splits["train"], _strata(splits["train"], layout), shares, cut.seed)
    parts: dict[Split, list[Row]] = {split: [] for split in ("train", *shares)}
    for row, split in zip(splits["train"], assigned, strict=True):
        parts[split].append(row)
    complete = splits | parts
    order: tuple[Split, ...] = ("train", "dev", "test")
    return {split: complete[split] for split in order if split in complete}, tuple(shares)


def _assign(
    rows: Sequence[Row], strata: Sequence[str], shares: dict[Split, float], seed: int
) -> list[Split]:
    """The split of each row. Within a stratum, groups of rows with the same sentences are sorted by
    hash, and each split takes its share of the rows from the front."""
    keys = ["\0".join(sorted(" ".join(text.lower().split()) for text in row[1])) for row in rows]
    groups: dict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        groups[key].append(number)
    keys_by_stratum: dict[str, list[str]] = defaultdict(list)
    for key, numbers in groups.items():
        keys_by_stratum[strata[numbers[0]]].append(key)
    assigned: list[Split] = ["train"] * len(rows)
    missing = dict.fromkeys(shares, 0.0)
    for stratum in sorted(keys_by_stratum):
        ordered = sorted(
            keys_by_stratum[stratum],
            key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "replace")).digest(),
        )
        total = sum(len(groups[key]) for key in ordered)
        for split, share in shares.items():
            missing[split] += share * total  # a remainder is carried over to the next stratum
            while len(ordered) > 1 and missing[split] >= len(groups[ordered[0]]) / 2:
                for number in groups[key := ordered.pop(0)]:
                    assigned[number] = split
                missing[split] -= len(groups[key])
    return assigned


def _strata(rows: Sequence[Row], layout: TableLayout) -> list[str]:
    """The stratum of each row: its label, or the quantile bin of its score."""
    labels = [label for _, _, label in rows]
    if layout.kind.output is not Output.SCORE:
        return labels
    scores = np.array([float(label) for label in labels])
    edges = np.quantile(scores, np.linspace(0, 1, _NUM_BINS + 1)[1:-1])
    return [str(number) for number in np.searchsorted(edges, scores).tolist()]
