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
from odiff.learning.features import noised
from odiff.metrics.classification import macro_score
from odiff.network.backbone import Backbone, block_shapes
from odiff.network.diagnosis import FeatureChoice
from odiff.plan import DiffusionPlan, NetworkPlan, ViewPlan
from odiff.plan.schema import Triple
from odiff.training.precision import autocast

FOLDS = 3
COMPONENTS = 48
MARGIN = 0.03
TOKENS = 12_000
CELLS_ZYX = (2, 3, 3)


@dataclass(frozen=True)
class ProbeResult:
    """The choice, and the cross-validated macro AUROC of every candidate."""

    choice: FeatureChoice
    scores: dict[str, float]


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
    """Score every block at every time step of the plan; the best two replace the default ones if they are clearly better.

    Clearly is `MARGIN`, about one standard error of a macro AUROC over 100 cases: closer scores are noise.

    Where the labels allow no probe (one patient, one class) the default blocks are taken.
    """
    truth = np.array([item.targets for item in items], float)
    fallback = FeatureChoice(plan.diffusion.probe_time_steps[0], usual_blocks(plan))
    if len(set(patients)) < 2 * FOLDS:
        return ProbeResult(fallback, {})
    backbone = backbone.to(device).eval()
    scores: dict[tuple[int, str], float] = {}
    for time_step in plan.diffusion.probe_time_steps:
        rows = [_case_features(backbone, folder, item, plan, time_step, device) for item in items]
        for block in plan.diffusion.probe_blocks:
            found = probe_score(np.stack([row[block] for row in rows]), truth, patients)
            if found is not None:
                scores[time_step, block] = found
    if not scores:
        return ProbeResult(fallback, {})
    usual = max(plan.diffusion.probe_time_steps, key=lambda step: _mean(scores, step, fallback.blocks))
    best_step = max(scores, key=lambda key: scores[key])[0]
    ranked = sorted((key for key in scores if key[0] == best_step), key=lambda key: -scores[key])
    best = tuple(block for _, block in ranked[:2])
    choice = FeatureChoice(usual, fallback.blocks)
    if _mean(scores, best_step, best) > _mean(scores, usual, fallback.blocks) + MARGIN:
        choice = FeatureChoice(best_step, best)
    return ProbeResult(choice, {f"t={step} {block}": round(value, 4) for (step, block), value in scores.items()})


def _mean(scores: dict[tuple[int, str], float], step: int, blocks: Sequence[str]) -> float:
    return float(np.mean([scores.get((step, block), 0.5) for block in blocks]))


def default_blocks(network: NetworkPlan, patch_zyx: Triple, known: Sequence[str]) -> tuple[str, ...]:
    """The encoder at the finest stage of at most `TOKENS` voxels and the next: fine enough for a lesion, cheap to train.

    Of a network without such blocks, the paper's, the end of the middle.
    """
    shapes = block_shapes(network, patch_zyx)
    fine = [name for name in known if name.startswith("encoder_") and np.prod(shapes[name]) <= TOKENS]
    return tuple(fine[:2]) or tuple(name for name in known if name.startswith("mid"))[-1:] or tuple(known[-1:])


def usual_blocks(plan: ViewPlan) -> tuple[str, ...]:
    """`default_blocks` among those that the plan lets the probes choose from."""
    return default_blocks(plan.network, plan.patch_zyx, plan.diffusion.probe_blocks)


def _case_features(
    backbone: Backbone, folder: Path, item: DiagnosisItem, plan: ViewPlan, time_step: int, device: torch.device
) -> dict[str, np.ndarray]:
    tiles = torch.from_numpy(np.stack(whole_view(folder, item.series[0], plan.patch_zyx))).to(device)
    return pooled_features(backbone, tiles, time_step, plan.diffusion)


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
    if len(set(patients)) < 2 * FOLDS:
        return None
    truth, time_step = np.array([item.targets for item in items], float), plan.diffusion.probe_time_steps[0]
    rows = [_case_features(backbone, folder, item, plan, time_step, device) for item in items]
    features = np.stack([np.concatenate([row[block] for block in usual_blocks(plan)]) for row in rows])
    return probe_score(features, truth, patients)


def probe_score(features: np.ndarray, truth: np.ndarray, patients: Sequence[str]) -> float | None:
    """Cross-validated macro AUROC of logistic regressions on features (cases, f), folds by patient."""
    logits = np.full(truth.shape, np.nan)
    for train, test in GroupKFold(FOLDS).split(features, groups=patients):
        compact = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, len(train) - 1), random_state=0)).fit(
            features[train]
        )
        rows = compact.transform(features)
        for label in range(truth.shape[1]):
            known = train[~np.isnan(truth[train, label])]
            if len(np.unique(truth[known, label])) < 2:
                continue
            model = LogisticRegression(C=0.003, max_iter=200).fit(rows[known], truth[known, label])
            logits[test, label] = model.decision_function(rows[test])
    scored = ~np.isnan(logits)
    return macro_score("auroc", np.where(scored, truth, np.nan), np.nan_to_num(logits)) if scored.any() else None
