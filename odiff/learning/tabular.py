"""Late fusion with the case table, learnt from logits that know nothing of the case they are of."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.model_selection import GroupKFold
from torch import Tensor

from odiff.data.tabular import (
    EncodedTable,
    Row,
    TableColumns,
    encode,
    fit_columns,
    has_table,
    hide_cells,
)
from odiff.learning.diagnosis_scores import masked_bce
from odiff.learning.subsets import FEWEST
from odiff.learning.tabular_model import TabularModel, build_table
from odiff.network.tabular import TabularFusion, TabularNetwork
from odiff.plan import FusionRecipe

FOLDS = 5
HIDDEN, DROPOUT, DECAY = 0.1, 0.3, 0.1
GAIN = 1.92
LEAST_SLOPE, MOST_SLOPE, MOST_SHIFT = 0.02, 8.0, 8.0
LEAST_SHARE = 1e-6


def learn_tabular(
    images: np.ndarray, truth: np.ndarray, rows: Sequence[Row], patients: Sequence[str], kinds: Mapping[str, str],
    recipe: FusionRecipe, seed: int,
) -> TabularModel:  # fmt: skip
    """The tabular network of all cases, and the mix that its out-of-fold logits and those of the images ask for.

    Parameters
    ----------
    images : (cases, labels), logits of heads that saw no label of the case.
    truth : (cases, labels), 1, 0, or NaN where unknown.
    kinds : the declared columns.

    Both inputs of the mix are out-of-fold, because a network looks too good on cases it learnt: noise would get a share.
    """
    seen = [number for number, row in enumerate(rows) if has_table(row)]
    columns = fit_columns([rows[number] for number in seen], kinds)
    table, targets = encode([rows[number] for number in seen], columns), torch.from_numpy(truth[seen]).float()
    network = TabularFusion(fit_table(table, targets, columns, recipe, seed))
    owners = [patients[number] for number in seen]
    out_of_fold = held_out_logits(table, targets, owners, columns, recipe, seed)
    for label in range(truth.shape[1]):
        known = ~np.isnan(truth[seen, label]) & ~np.isnan(out_of_fold[:, label])
        found = fit_mix(out_of_fold[known, label], images[seen, label][known], truth[seen, label][known])
        _set_mix(network, label, *found)
    return TabularModel(network.eval(), columns)


def fit_table(
    table: EncodedTable, targets: Tensor, columns: TableColumns, recipe: FusionRecipe, seed: int
) -> TabularNetwork:
    """Train on all of `table` at once for `recipe.tabular_steps`, some cells hidden in each step."""
    torch.manual_seed(seed)
    network = build_table(columns, targets.shape[1], DROPOUT)
    known = ~torch.isnan(targets)
    prior = (torch.nan_to_num(targets).sum(dim=0) + 1) / (known.sum(dim=0) + 2)
    with torch.no_grad():
        network.out.bias.copy_(torch.logit(prior))
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.tabular_rate, weight_decay=DECAY)
    network.train()
    for step in range(recipe.tabular_steps):
        seen = hide_cells(table, HIDDEN, np.random.default_rng([seed, 7, step]))
        for group in optimiser.param_groups:
            group["lr"] = recipe.tabular_rate * (1 - step / recipe.tabular_steps)
        optimiser.zero_grad()
        masked_bce(network(seen.values, seen.codes), targets).backward()
        optimiser.step()
    return network.eval()


@torch.no_grad()
def _logits(network: TabularNetwork, table: EncodedTable) -> np.ndarray:
    return network(table.values, table.codes).numpy()


def held_out_logits(
    table: EncodedTable, targets: Tensor, patients: Sequence[str], columns: TableColumns, recipe: FusionRecipe, seed: int
) -> np.ndarray:  # fmt: skip
    """Logits (cases, labels), each of a network that saw no case of the patient; NaN where there is but one patient."""
    found = np.full(tuple(targets.shape), np.nan)
    folds = min(FOLDS, len(set(patients)))
    if folds < 2:
        return found
    for train, held_out in GroupKFold(folds).split(found, groups=patients):
        network = fit_table(table.of(train.tolist()), targets[train], columns, recipe, seed)
        found[held_out] = _logits(network, table.of(held_out.tolist()))
    return found


def fit_mix(tabular: np.ndarray, images: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Share of the table, scale and bias of the mix of one label, from logits (cases,) and truth (cases,) of 1 and 0.

    A logistic regression on both logits, neither turned around. The table gets a share only where it makes the truth likelier by
    `GAIN` nats, which noise does for one label in forty (Wilks' theorem, slope at the border); with fewer than `FEWEST` cases of
    either kind it gets none. Without a share the logits of the images stay as they are.
    """
    if min((truth == 1).sum(), (truth == 0).sum()) < FEWEST:
        return 0.0, 1.0, 0.0
    _, alone = _regression(tabular, images, truth, 0.0)
    (slope, beside, shift), both = _regression(tabular, images, truth, MOST_SLOPE)
    if alone - both < GAIN:
        return 0.0, 1.0, 0.0
    return slope / (slope + beside), slope + beside, shift


def _regression(
    tabular: np.ndarray, images: np.ndarray, truth: np.ndarray, most: float
) -> tuple[tuple[float, float, float], float]:
    """Slope of the table, at most `most`, slope of the images and intercept; and what is left of the log likelihood."""

    def loss(x: np.ndarray) -> float:
        mixed = x[0] * tabular + x[1] * images + x[2]
        return float(np.sum(np.logaddexp(0, mixed) - truth * mixed))

    bounds = [(0, most), (LEAST_SLOPE, MOST_SLOPE), (-MOST_SHIFT, MOST_SHIFT)]
    found = minimize(loss, np.array([min(0.2, most), 0.8, 0.0]), method="L-BFGS-B", bounds=bounds)
    slope, beside, shift = map(float, found.x)
    return (slope, beside, shift), float(found.fun)


@torch.no_grad()
def _set_mix(network: TabularFusion, label: int, share: float, scale: float, bias: float) -> None:
    within = min(max(share, LEAST_SHARE), 1 - LEAST_SHARE)
    network.mix[label], network.scale[label], network.bias[label] = float(np.log(within / (1 - within))), scale, bias
