"""What a gate over the views weighed: a table by case and label, and a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from odiff.learning.heat_map import draw_heat_map
from odiff.storage import write_text

TABLE, PICTURE = "gate_weights.csv", "gate_weights.png"
CASE, LABEL = "case", "label"


def gate_table(
    cases: Sequence[str], diagnoses: Sequence[str], views: Sequence[str], weights: np.ndarray
) -> pd.DataFrame:
    """One row per case and label, one column per view.

    Parameters
    ----------
    weights : (cases, labels, views), each row summing to 1; 0 where a case lacks the view.
    """
    rows = [
        {CASE: case, LABEL: label, **dict(zip(views, row.round(4).tolist(), strict=True))}
        for case, of_case in zip(cases, weights, strict=True)
        for label, row in zip(diagnoses, of_case, strict=True)
    ]
    return pd.DataFrame(rows, columns=[CASE, LABEL, *views])


def add_gates(folder: Path, table: pd.DataFrame) -> None:
    """Write gate_weights.csv, with the cases that it held already; a picture of those alone goes."""
    path = folder / TABLE
    (folder / PICTURE).unlink(missing_ok=True)
    if path.exists():
        earlier = read_gates(path)
        table = pd.concat([earlier[~earlier[CASE].isin(table[CASE])], table], ignore_index=True)
    write_text(path, table.to_csv(index=False))


def forget_gates(folder: Path, case: str) -> None:
    """Take a case out of gate_weights.csv; the files go with the last one."""
    path = folder / TABLE
    if not path.exists():
        return
    (folder / PICTURE).unlink(missing_ok=True)
    table = read_gates(path)
    left = table[table[CASE] != case]
    if left.empty:
        path.unlink()
    else:
        write_text(path, left.to_csv(index=False))


def draw_gates(folder: Path) -> None:
    """Draw gate_weights.png, the mean over all cases of gate_weights.csv, where there are some and the picture is missing."""
    if not (folder / TABLE).exists() or (folder / PICTURE).exists():
        return
    table = read_gates(folder / TABLE)
    views = [name for name in table.columns if name not in (CASE, LABEL)]
    mean = table.groupby(LABEL, sort=False)[views].mean()
    title = f"mean weight of each view, {table[CASE].nunique()} cases"
    draw_heat_map(folder / PICTURE, mean.to_numpy(), list(mean.index), views, title)


def read_gates(path: Path) -> pd.DataFrame:
    """What `add_gates` wrote."""
    return pd.read_csv(path, dtype={CASE: str}, keep_default_na=False)
