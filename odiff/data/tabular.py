"""Rows of the case table as numbers; what is missing, and what training never saw, are states of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Cell = float | str | None
Row = Mapping[str, Cell]
CONTINUOUS = "continuous"
MISSING, UNSEEN = 0, 1
OWN_CODES = 2
FURTHEST = 4.0


@dataclass(frozen=True)
class TableColumns:
    """What the training cases say of each column: mean and deviation of numbers, the values of categories."""

    continuous: dict[str, tuple[float, float]]
    categorical: dict[str, tuple[str, ...]]

    @property
    def kinds(self) -> dict[str, str]:
        """Columns as dataset.json declares them."""
        return {**dict.fromkeys(self.continuous, CONTINUOUS), **dict.fromkeys(self.categorical, "categorical")}


@dataclass(frozen=True)
class EncodedTable:
    """`values` (cases, 2 * continuous): standardised numbers, 0 where missing, then 1 where missing; `codes` (cases, categorical)."""

    values: Tensor
    codes: Tensor

    def of(self, cases: Sequence[int]) -> "EncodedTable":
        """Some cases, in their order."""
        return EncodedTable(self.values[list(cases)], self.codes[list(cases)])


def has_table(row: Row) -> bool:
    """Whether anything is known of a case."""
    return any(value is not None for value in row.values())


def fit_columns(rows: Sequence[Row], kinds: Mapping[str, str]) -> TableColumns:
    """Mean, deviation and categories over the training cases; a column without two different numbers keeps deviation 1."""
    continuous: dict[str, tuple[float, float]] = {}
    categorical: dict[str, tuple[str, ...]] = {}
    for name, kind in kinds.items():
        known = [value for row in rows if (value := row.get(name)) is not None]
        if kind == CONTINUOUS:
            numbers = np.array(known, float) if known else np.zeros(1)
            continuous[name] = (float(numbers.mean()), float(numbers.std()) or 1.0)
        else:
            categorical[name] = tuple(sorted({str(value) for value in known}))
    return TableColumns(continuous, categorical)


def encode(rows: Sequence[Row], columns: TableColumns) -> EncodedTable:
    """Rows as the network reads them; numbers further than `FURTHEST` deviations from the mean count as that far."""
    numbers = np.array([[_number(row.get(name)) for name in columns.continuous] for row in rows], float)
    numbers = numbers.reshape(len(rows), len(columns.continuous))
    mean, deviation = np.array(list(columns.continuous.values()), float).reshape(-1, 2).T
    standard = np.clip((numbers - mean) / deviation, -FURTHEST, FURTHEST)
    is_missing = np.isnan(numbers)
    values = np.concatenate([np.where(is_missing, 0, standard), is_missing], axis=1)
    codes = [[_code(row.get(name), known) for name, known in columns.categorical.items()] for row in rows]
    return EncodedTable(
        torch.from_numpy(values).float(), torch.tensor(codes, dtype=torch.long).reshape(len(rows), len(columns.categorical))
    )  # fmt: skip


def hide_cells(table: EncodedTable, share: float, rng: np.random.Generator) -> EncodedTable:
    """A copy with a random share of the numbers missing and of the categories missing or never seen, half and half."""
    values, codes = table.values.clone(), table.codes.clone()
    half = values.shape[1] // 2
    hidden = torch.from_numpy(rng.random((len(values), half)) < share)
    values[:, :half][hidden], values[:, half:][hidden] = 0.0, 1.0
    drawn = torch.from_numpy(rng.random(tuple(codes.shape)))
    codes[drawn < share] = MISSING
    codes[drawn < share / 2] = UNSEEN
    return EncodedTable(values, codes)


def _number(value: Cell) -> float:
    return float("nan") if value is None else float(value)


def _code(value: Cell, known: Sequence[str]) -> int:
    if value is None:
        return MISSING
    return known.index(str(value)) + OWN_CODES if str(value) in known else UNSEEN
