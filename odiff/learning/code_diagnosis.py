"""Diagnosis from the shared code: logistic regressions, and what they add to the fused networks of a fold.

A few labels tell the regressions more than a network, many tell the network more (docs/decisions.md), so the share of the
regressions in the mix of both logits falls with the number of cases that a label was learnt from.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from torch import Tensor

from odiff.data.index import PreparedCase
from odiff.data.store import open_array
from odiff.errors import CheckpointError
from odiff.learning.code_model import CODE, build_code, code_rows
from odiff.learning.context import FUSED, Context
from odiff.learning.diagnosis_scores import truth_of
from odiff.learning.run import check_fit, plan_of_view
from odiff.learning.subsets import FEWEST
from odiff.network.shared_code import CodeDiagnosis, SharedCode
from odiff.training.checkpoint import load_weights, read_checkpoint, save_checkpoint
from odiff.training.run_folder import RunFolder

FOLDS = 5
STRENGTH = 0.1


def train_code_diagnosis(
    context: Context, run: RunFolder, source: Path | None, cases: Sequence[PreparedCase], meta: dict[str, object]
) -> None:
    """Fit the diagnosis from the shared code in `source` on the training cases of a fold and store it in the run's folder.

    Raises
    ------
    CheckpointError
        The code was learnt on another grid than the plan's.
    """
    path = run.checkpoint(CODE)
    if source is None or path.exists():
        return
    code = load_code(context, source)
    network = CodeDiagnosis(code, len(context.plan.diagnoses))
    truth = truth_of(cases, context.plan.diagnoses)
    network.share.copy_(code_shares(truth, context.plan.fusion.code_cases))
    rows, present = prepared_rows(context, code, cases)
    fit_regressions(network, rows, present, truth)
    described = meta | {"code_views": list(code.views), "width": code.width, "code_from": str(source)}
    save_checkpoint(path, {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}, described)


def code_shares(truth: np.ndarray, code_cases: float) -> Tensor:
    """The share of the code in each label's mix (labels,), from the truth (cases, labels) that both learn from."""
    rarer = np.minimum((truth == 1).sum(axis=0), (truth == 0).sum(axis=0))
    return torch.from_numpy(code_cases / (code_cases + rarer)).float()


def load_code(context: Context, path: Path) -> SharedCode:
    """A pretrained shared code; a `CheckpointError` where it does not fit the plan."""
    checkpoint = read_checkpoint(path)
    if checkpoint.meta.get("view") != FUSED or "code_views" not in checkpoint.meta:
        raise CheckpointError(f"{path}: holds no shared code of the views; learn it with odiff_train DATASET fused")
    views = checkpoint.meta["code_views"]
    for view in views:
        if view not in context.plan.views:
            raise CheckpointError(f"{path}: has the view {view}, which the plan has not; plan with --like")
        check_fit(plan_of_view(checkpoint.meta, view), context.plan.views[view], str(path), "plan with --like")
    code = build_code(context.plan, views, checkpoint.meta["width"])
    load_weights(code, checkpoint.part("weights."), str(path))
    return code.eval()


def prepared_rows(context: Context, code: SharedCode, cases: Sequence[PreparedCase]) -> tuple[Tensor, Tensor]:
    """`code_rows` of preprocessed cases: (cases, views, width) and (cases, views)."""
    found = []
    for case in cases:
        images = {
            view: [open_array(context.prepared(view) / f"{series.name}.b2nd")[:] for series in case.of_view(view)]
            for view in code.views
        }
        found.append(code_rows(code, images, context.plan))
    if not found:
        return torch.zeros((0, len(code.views), code.width)), torch.zeros((0, len(code.views)), dtype=torch.bool)
    return torch.cat([rows for rows, _ in found]), torch.cat([present for _, present in found])


def fit_regressions(network: CodeDiagnosis, rows: Tensor, present: Tensor, truth: np.ndarray) -> None:
    """One regression for each set of views, on the cases that have them all.

    Parameters
    ----------
    rows, present : (cases, views, width) and (cases, views), from `prepared_rows`.
    truth : (cases, labels), 1, 0, or NaN where unknown. A label with fewer than `FEWEST` cases of either kind gets no weights.
    """
    views = present.shape[1]
    for wanted in range(1, 2**views):
        members = torch.tensor([bool(wanted >> number & 1) for number in range(views)])
        has_all = present[:, members].all(dim=1)
        x = rows[has_all][:, members].sum(dim=1).numpy()
        for label, column in enumerate(truth[has_all.numpy()].T):
            known = ~np.isnan(column)
            positive = int(column[known].sum())
            if min(positive, known.sum() - positive) < FEWEST:
                continue
            found = LogisticRegression(C=STRENGTH, max_iter=1000).fit(x[known], column[known])
            network.weight[wanted, label] = torch.from_numpy(found.coef_[0]).float()
            network.bias[wanted, label] = float(found.intercept_[0])


def held_out_mix(
    network: CodeDiagnosis, images: Tensor, rows: Tensor, present: Tensor, truth: np.ndarray, patients: Sequence[str]
) -> Tensor:
    """Logits of the fused images (cases, labels) mixed with those of regressions that saw no case of the patient."""
    folds = min(FOLDS, len(set(patients)))
    mixed = images.clone()
    if folds < 2:
        return mixed
    for train, held_out in GroupKFold(folds).split(truth, groups=patients):
        inner = CodeDiagnosis(network.code, truth.shape[1])
        inner.share.copy_(network.share)
        fit_regressions(inner, rows[train], present[train], truth[train])
        mixed[held_out] = inner.mix(images[held_out], rows[held_out], present[held_out])
    return mixed
