"""The loss of diagnosis, and predictions.csv and summary.json of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn import functional as F

from odiff.data.index import PreparedCase
from odiff.errors import DatasetError
from odiff.metrics.classification import score_labels
from odiff.storage import write_json, write_text


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy over known labels; targets (b, labels) are 1, 0, or NaN where unknown."""
    known = ~torch.isnan(targets)
    loss = F.binary_cross_entropy_with_logits(logits.float(), torch.nan_to_num(targets), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def write_scores(
    folder: Path, cases: Sequence[PreparedCase], logits: np.ndarray, diagnoses: Sequence[str], seed: int
) -> dict[str, Any]:
    """Write probabilities and logits (cases, labels) of validation cases, and their scores with intervals."""
    truth = truth_of(cases, diagnoses)
    table = pd.DataFrame({"case": [case.name for case in cases]})
    for index, name in enumerate(diagnoses):
        table[name] = expit(logits[:, index]).round(5)
        table[f"{name}_logit"] = logits[:, index].round(5)
    write_text(folder / "predictions.csv", table.to_csv(index=False))
    patients = [case.patient for case in cases]
    scores = score_labels(diagnoses, truth, expit(logits), patients, np.random.default_rng(seed))
    summary = {"cases": len(cases), "labels": scores}
    write_json(folder / "summary.json", summary)
    return summary


def truth_of(cases: Sequence[PreparedCase], diagnoses: Sequence[str]) -> np.ndarray:
    """(cases, labels): 1, 0, or NaN where unknown."""
    return np.array(
        [
            [np.nan if (value := case.diagnoses.get(name)) is None else float(value) for name in diagnoses]
            for case in cases
        ]
    ).reshape(len(cases), len(diagnoses))


def read_logits(folder: Path, diagnoses: Sequence[str]) -> dict[str, np.ndarray]:
    """Logits (labels,) by case from predictions.csv."""
    path = folder / "predictions.csv"
    try:
        table = pd.read_csv(path, dtype={"case": str})
        return {
            row["case"]: row[[f"{name}_logit" for name in diagnoses]].to_numpy(float) for _, row in table.iterrows()
        }
    except (OSError, KeyError, ValueError) as fault:
        raise DatasetError(f"{path}: cannot be read ({fault}); run odiff_train with --validate-only again") from None
