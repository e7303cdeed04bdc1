"""Cases as items to diagnose: their series and their labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odiff.data.batches import DiagnosisItem
from odiff.data.index import PreparedCase


def items_of(cases: Sequence[PreparedCase], view: str, diagnoses: Sequence[str]) -> list[DiagnosisItem]:
    """Series and targets of each case that has the view."""
    return [
        DiagnosisItem(tuple(series.name for series in case.of_view(view)), targets_of(case, diagnoses))
        for case in cases
        if case.of_view(view)
    ]


def targets_of(case: PreparedCase, diagnoses: Sequence[str]) -> tuple[float, ...]:
    """1, 0, or NaN where unknown, in the plan's order."""
    return tuple(float("nan") if (value := case.diagnoses.get(name)) is None else float(value) for name in diagnoses)


def prior_logits(targets: Tensor) -> Tensor:
    """Log odds of each label's prevalence among the known of `targets` (cases, labels), held within 2 % and 98 %."""
    known = ~torch.isnan(targets)
    share = (torch.nan_to_num(targets).sum(dim=0) + 1) / (known.sum(dim=0) + 2)
    return torch.logit(share.clamp(0.02, 0.98))
