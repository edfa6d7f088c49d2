"""A column of a user's table: its values, and what they may be."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trainable.data.tables import cell_text


@dataclass(frozen=True)
class Column:
    """The values of a column of a table."""

    name: str
    values: list[Any]

    @cached_property
    def cells(self) -> list[str]:
        """The values that are not empty, as text."""
        texts = (cell_text(value, "\0").strip() for value in self.values)
        return [text for text in texts if text]

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.cells)

    @cached_property
    def is_list(self) -> bool:
        return any(isinstance(value, list) for value in self.values)

    @cached_property
    def words(self) -> float:
        """Mean number of words per cell."""
        return sum(len(cell.split()) for cell in self.cells) / max(1, len(self.cells))

    @cached_property
    def has_decimal_commas(self) -> bool:
        """Whether the cells are numbers like 3,5; a column of `1,000` may have thousands."""
        are_numbers = all(re.fullmatch(r"[+-]?\d+(,\d+)?", cell) for cell in self.cells)
        return are_numbers and any(re.search(r",(\d\d?|\d{4,})$", cell) for cell in self.cells)

    @cached_property
    def numbers(self) -> list[float] | None:
        """The cells as numbers; None: a cell is not a finite number, or there are no cells."""
        point = "." if self.has_decimal_commas else ","
        try:
            numbers = [float(cell.replace(",", point)) for cell in self.cells]
        except ValueError:
            return None
        return numbers if numbers and all(map(math.isfinite, numbers)) else None

    @property
    def is_unique(self) -> bool:
        return len(self.counts) == len(self.values)

    @property
    def is_text(self) -> bool:
        return self.numbers is None and not self.is_list and bool(self.cells)

    def is_called(self, names: Iterable[str]) -> bool:
        plain = re.sub(r"[^a-z]+", "_", self.name.lower()).strip("_")
        return any(plain == name or plain.endswith(f"_{name}") for name in names)
