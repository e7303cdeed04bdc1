"""Late fusion with the case table as prediction needs it; learning it is `odiff.learning.tabular`.

Apart from it, because what learns needs packages that are slow to import.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from odiff.data.tabular import OWN_CODES, Row, TableColumns, encode, has_table
from odiff.errors import CheckpointError
from odiff.network.tabular import TabularFusion, TabularNetwork
from odiff.plan import from_plain
from odiff.training.checkpoint import load_weights, read_checkpoint

TABULAR = "tabular"


@dataclass(frozen=True)
class TabularModel:
    """A trained late fusion and the columns it reads."""

    network: TabularFusion
    columns: TableColumns

    @torch.no_grad()
    def mix(self, images: np.ndarray, rows: Sequence[Row]) -> np.ndarray:
        """Logits of the images (cases, labels) and the table's rows -> logits; unchanged where nothing of a row is known."""
        known = [{name: row.get(name) for name in self.columns.kinds} for row in rows]
        table = encode(known, self.columns)
        has_row = torch.tensor([has_table(row) for row in known], dtype=torch.bool)
        return self.network(torch.from_numpy(images).float(), table.values, table.codes, has_row).numpy()


def build_table(columns: TableColumns, labels: int, dropout: float = 0.0) -> TabularNetwork:
    """The network for these columns, untrained."""
    codes = [len(known) + OWN_CODES for known in columns.categorical.values()]
    return TabularNetwork(len(columns.continuous), codes, labels, dropout)


def load_tabular(path: Path, labels: int) -> TabularModel:
    """A trained late fusion, ready to predict."""
    checkpoint = read_checkpoint(path)
    columns = from_plain(TableColumns, checkpoint.meta["fitted"], str(path), CheckpointError)
    network = TabularFusion(build_table(columns, labels))
    load_weights(network, checkpoint.part("weights."), str(path))
    return TabularModel(network.eval(), columns)
