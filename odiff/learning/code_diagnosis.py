"""Diagnosis from the shared code: logistic regressions, and what they add to the fused networks of a fold.

A few labels tell the regressions more than a network, many tell the network more (docs/decisions.md), so the share of the
regressions in the mix of both logits falls with the number of cases that a label was learnt from.
"""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from torch import Tensor

from odiff.data.index import PreparedCase
from odiff.errors import CheckpointError
from odiff.learning.code_model import CODE, build_code
from odiff.learning.code_volumes import small_volumes
from odiff.learning.context import Context
from odiff.learning.diagnosis_scores import truth_of
from odiff.learning.pretrained import ResultsFolder, named_checkpoint, results_of_dataset
from odiff.learning.run import check_fit, plan_of_view
from odiff.learning.subsets import FEWEST
from odiff.network.shared_code import CodeDiagnosis, SharedCode, set_number
from odiff.training.checkpoint import load_weights, read_checkpoint, read_meta, save_checkpoint
from odiff.training.run_folder import RunFolder
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)
FOLDS = 5
STRENGTH = 0.1
GRID = ("spacing_zyx_mm", "patch_zyx", "normalisation")


def train_code_diagnosis(
    context: Context, run: RunFolder, source: Path, networks: Collection[str], cases: Sequence[PreparedCase],
    images: Tensor, meta: dict[str, Any], device: torch.device,
) -> dict[str, float]:  # fmt: skip
    """Fit the diagnosis from the shared code in `source` on the training cases of a fold and store it in the run's folder.

    Parameters
    ----------
    networks : the views that have a network: the only ones that prediction looks at.
    images : logits of the fused networks (cases, labels), which the code's will be mixed with.

    Returns
    -------
    The share of the code in each label's mix.

    Raises
    ------
    CheckpointError
        The code was learnt on another grid than the plan's.
    """
    code = load_code(context, source)
    network = CodeDiagnosis(code, len(context.plan.diagnoses))
    truth = truth_of(cases, context.plan.diagnoses)
    network.share.copy_(code_shares(truth, context.plan.fusion.code_cases))
    rows, present = prepared_rows(context, code, networks, cases, device)
    fit_regressions(network, rows, present, truth)
    match_spread(network, images, rows, present)
    described = meta | {"code_views": list(code.views), "width": code.width}
    tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(run.checkpoint(CODE), tensors, described)
    return {name: round(float(one), 3) for name, one in zip(context.plan.diagnoses, network.share, strict=True)}


def find_code(wanted: str, results: ResultsFolder, results_root: Path | None, joint: str) -> Path | None:
    """The shared code that ``--pretrained`` stands for; None for ``none``, and where there is none.

    Parameters
    ----------
    wanted : ``auto`` (this dataset's), ``none``, a checkpoint file or a folder holding one, or a dataset's name, whose code is taken if
        it has one of this joint, else this dataset's.

    Raises
    ------
    CheckpointError
        A checkpoint that was named is no shared code, or of another joint.
    """
    if wanted == "none":
        return None
    own = results.pretrain(FUSED).checkpoint("final")
    if wanted != "auto":
        if given := named_checkpoint(wanted):
            if joint_of(given) != joint:
                raise CheckpointError(
                    f"{given}: is a shared code of the joint {joint_of(given)}, the plan is of {joint}; name another, or none"
                )
            return given
        of_other = results_of_dataset(wanted, results.path.name, results_root).pretrain(FUSED).checkpoint("final")
        if of_other.exists() and joint_of(of_other) == joint:
            return of_other
        log.info("%s has no shared code of the joint %s: that of this dataset's scans is taken", wanted, joint)
    return own if own.exists() else None


def joint_of(path: Path) -> str:
    """The joint whose views a shared code is of; a `CheckpointError` where the file holds none."""
    meta = read_meta(path)
    if meta.get("view") != FUSED or "code_views" not in meta:
        raise CheckpointError(
            f"{path}: holds no shared code of views; learn one with odiff_train DATASET fused --task pretrain"
        )
    return str(meta["plan"]["joint"])


def load_code(context: Context, path: Path) -> SharedCode:
    """A pretrained shared code, of those of its views that the plan has; a `CheckpointError` where they have another grid."""
    checkpoint = read_checkpoint(path)
    views = [view for view in checkpoint.meta["code_views"] if view in context.plan.views]
    advice = (
        f"learn it anew with odiff_train {context.dataset.name} fused --task pretrain --restart, or plan with --like"
    )
    for view in views:
        check_fit(plan_of_view(checkpoint.meta, view), context.plan.views[view], str(path), advice, GRID)
    code = build_code(context.plan, views, checkpoint.meta["width"])
    kept = {
        f"parts.{view}.{name}": t for view in views for name, t in checkpoint.part(f"weights.parts.{view}.").items()
    }
    load_weights(code, kept, str(path))
    return code.eval()


def code_shares(truth: np.ndarray, code_cases: float) -> Tensor:
    """The share of the code in each label's mix (labels,), from the truth (cases, labels) that both learn from."""
    rarer = np.minimum((truth == 1).sum(axis=0), (truth == 0).sum(axis=0))
    return torch.from_numpy(code_cases / (code_cases + rarer)).float()


@torch.no_grad()
def prepared_rows(
    context: Context, code: SharedCode, networks: Collection[str], cases: Sequence[PreparedCase], device: torch.device
) -> tuple[Tensor, Tensor]:
    """`code_rows` of preprocessed cases, by the views that have a network: (cases, views, width) and (cases, views)."""
    rows, count = torch.zeros((len(cases), len(code.views), code.width)), torch.zeros((len(cases), len(code.views)))
    for number, view in enumerate(code.views):
        named = [(row, one.name) for row, case in enumerate(cases) for one in case.of_view(view) if view in networks]
        if not named:
            continue
        at, names = zip(*named, strict=True)
        part = code.part(view).to(device)
        codes = torch.cat([part(small).cpu() for small in small_volumes(context, view, names, device)])
        part.cpu()
        rows[:, number].index_add_(0, torch.tensor(at), codes)
        count[:, number] = torch.bincount(torch.tensor(at), minlength=len(cases))
    return rows / count.clamp(min=1)[:, :, None], count > 0


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


@torch.no_grad()
def match_spread(network: CodeDiagnosis, images: Tensor, rows: Tensor, present: Tensor) -> None:
    """Multiply the regressions so that over these cases their logits spread as widely as `images` (cases, labels), all labels together.

    A network that was trained on sixteen cases says everything ten times as loudly as a regression does: shares of such a mix would
    mean nothing.
    """
    code = network(rows, present)
    has_learnt = network.weight[set_number(present)].any(dim=2).any(dim=0)
    own, wanted = (one[:, has_learnt].var(dim=0, correction=0).sum().sqrt() for one in (code, images))
    if own > 0 and wanted > 0:
        network.weight *= wanted / own
        network.bias *= wanted / own


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
        match_spread(inner, images[train], rows[train], present[train])
        mixed[held_out] = inner.mix(images[held_out], rows[held_out], present[held_out])
    return mixed
