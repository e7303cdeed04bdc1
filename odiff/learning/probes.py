"""Linear probes choose where the diffusion model is read: which blocks, at how little noise.

They see the training cases of one fold alone; the choice is stored in that run's config.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from odiff.data.batches import DiagnosisItem, whole_view
from odiff.learning.clear_choice import can_choose, clearly_best
from odiff.learning.features import noised
from odiff.learning.usual_blocks import usual_blocks
from odiff.metrics.classification import macro_score
from odiff.network.backbone import Backbone
from odiff.network.diagnosis import FeatureChoice
from odiff.plan import DiffusionPlan, ViewPlan
from odiff.training.precision import autocast

FOLDS = 3
COMPONENTS = 48
CELLS_ZYX = (2, 3, 3)
Scores = dict[tuple[int, str], float]


@dataclass(frozen=True)
class ProbeResult:
    """The choice, the cross-validated macro AUROC of every candidate, and the run that scored them."""

    choice: FeatureChoice
    scores: dict[str, float]
    source: str = "this run"


@torch.no_grad()
def pooled_features(
    backbone: Backbone, tiles: Tensor, time_step: int, diffusion: DiffusionPlan
) -> dict[str, np.ndarray]:
    """Mean features over a coarse grid of cells and over the tiles of one case, by block: (channels * cells,)."""
    t = torch.full((len(tiles),), time_step, device=tiles.device)
    with autocast(tiles.device):
        found = backbone.features(noised(tiles, time_step, diffusion), t)
    return {
        name: F.adaptive_avg_pool3d(block.float(), _cells(block)).mean(dim=0).flatten().cpu().numpy()
        for name, block in found.items()
    }


def _cells(block: Tensor) -> tuple[int, int, int]:
    depth, rows, columns = (min(size, cells) for size, cells in zip(block.shape[2:], CELLS_ZYX, strict=True))
    return depth, rows, columns


def choose_features(
    backbone: Backbone,
    folder: Path,
    items: Sequence[DiagnosisItem],
    patients: Sequence[str],
    plan: ViewPlan,
    device: torch.device,
) -> ProbeResult:
    """Score every block at every time step of the plan, and `choose`; where patients or labels are too few the usual ones are taken."""
    scores: Scores = {}
    if can_choose(patients):
        for time_step in plan.diffusion.probe_time_steps:
            scores |= score_time_step(backbone, folder, items, patients, plan, time_step, device)
    return ProbeResult(
        choose(scores, plan, len(items)), {cell_name(*cell): round(value, 4) for cell, value in scores.items()}
    )


def has_patients_enough(patients: Sequence[str]) -> bool:
    """Whether there are patients for cross-validated probes."""
    return len(set(patients)) >= 2 * FOLDS


def score_time_step(
    backbone: Backbone, folder: Path, items: Sequence[DiagnosisItem], patients: Sequence[str], plan: ViewPlan, time_step: int,
    device: torch.device,
) -> Scores:  # fmt: skip
    """The cross-validated macro AUROC of each block of the plan at a time step, from features computed once for all of them.

    A block whose labels allow no probe is left out.
    """
    truth = np.array([item.targets for item in items], float)
    rows = case_features(backbone, folder, items, plan, time_step, device)
    found = {block: probe_score(rows[block], truth, patients) for block in plan.diffusion.probe_blocks}
    return {(time_step, block): value for block, value in found.items() if value is not None}


def choose(scores: Scores, plan: ViewPlan, cases: int) -> FeatureChoice:
    """The usual blocks at the first time step, unless others are clearly better over so many cases.

    Candidates are the usual blocks at the time step where they are best, and the best two blocks at the best cell's time step.
    """
    usual = FeatureChoice(plan.diffusion.probe_time_steps[0], usual_blocks(plan))
    if not scores:
        return usual
    best_step = max(scores, key=lambda key: scores[key])[0]
    ranked = sorted((key for key in scores if key[0] == best_step), key=lambda key: -scores[key])
    usual_step = max(plan.diffusion.probe_time_steps, key=lambda step: _mean(scores, step, usual.blocks))
    best = FeatureChoice(best_step, tuple(block for _, block in ranked[:2]))
    candidates = (usual, FeatureChoice(usual_step, usual.blocks), best)
    means = {one: _mean(scores, one.time_step, one.blocks) for one in candidates}
    return clearly_best(means, usual, cases)


def cell_name(time_step: int, block: str) -> str:
    """How configurations name a cell of the grid."""
    return f"t={time_step} {block}"


def _mean(scores: Scores, step: int, blocks: Sequence[str]) -> float:
    return float(np.mean([scores.get((step, block), 0.5) for block in blocks]))


def case_features(
    backbone: Backbone,
    folder: Path,
    items: Sequence[DiagnosisItem],
    plan: ViewPlan,
    time_step: int,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Pooled features of the first series of each case, by block: (cases, channels * cells)."""
    backbone = backbone.to(device).eval()
    rows = []
    for item in items:
        tiles = torch.from_numpy(np.stack(whole_view(folder, item.series[0], plan.patch_zyx))).to(device)
        rows.append(pooled_features(backbone, tiles, time_step, plan.diffusion))
    return {block: np.stack([row[block] for row in rows]) for block in rows[0]}


def logged_probe(
    backbone: Backbone,
    folder: Path,
    items: Sequence[DiagnosisItem],
    patients: Sequence[str],
    plan: ViewPlan,
    device: torch.device,
) -> float | None:
    """Cross-validated macro AUROC of linear probes on the default blocks, for the log of pretraining; it decides nothing.

    None where the labels allow no probe.
    """
    if not has_patients_enough(patients):
        return None
    truth, time_step = np.array([item.targets for item in items], float), plan.diffusion.probe_time_steps[0]
    rows = case_features(backbone, folder, items, plan, time_step, device)
    return probe_score(np.concatenate([rows[block] for block in usual_blocks(plan)], axis=1), truth, patients)


def probe_score(features: np.ndarray, truth: np.ndarray, patients: Sequence[str]) -> float | None:
    """Cross-validated macro AUROC of logistic regressions on features (cases, f), folds by patient."""
    logits = np.full(truth.shape, np.nan)
    for train, test in GroupKFold(FOLDS).split(features, groups=patients):
        logits[test] = probe_logits(features[train], truth[train], features[test])
    return _macro_auroc(logits, truth)


def held_out_score(features: np.ndarray, truth: np.ndarray, new: np.ndarray, new_truth: np.ndarray) -> float | None:
    """Macro AUROC, on cases that no probe saw, of the probes fitted to all of `features`; None where the labels allow none."""
    return _macro_auroc(probe_logits(features, truth, new), new_truth)


def probe_logits(features: np.ndarray, truth: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Logits (n, labels) of new cases (n, f) by logistic regressions on features (cases, f); NaN where a label has one class."""
    components = min(COMPONENTS, len(features) - 1, features.shape[1])
    compact = make_pipeline(StandardScaler(), PCA(components, random_state=0)).fit(features)
    rows, new_rows = compact.transform(features), compact.transform(new)
    logits = np.full((len(new), truth.shape[1]), np.nan)
    for label in range(truth.shape[1]):
        known = ~np.isnan(truth[:, label])
        if len(np.unique(truth[known, label])) >= 2:
            model = LogisticRegression(C=0.003, max_iter=200).fit(rows[known], truth[known, label])
            logits[:, label] = model.decision_function(new_rows)
    return logits


def _macro_auroc(logits: np.ndarray, truth: np.ndarray) -> float | None:
    scored = ~np.isnan(logits)
    return macro_score("auroc", np.where(scored, truth, np.nan), np.nan_to_num(logits)) if scored.any() else None
