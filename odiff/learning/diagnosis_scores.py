"""The loss of diagnosis, and predictions.csv and summary.json of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.data.index import PreparedCase
from odiff.errors import DatasetError
from odiff.metrics.calibration import expit
from odiff.metrics.classification import score_labels
from odiff.storage import write_json, write_text


def masked_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy over known labels; targets (b, labels) are 1, 0, or NaN where unknown."""
    known = ~torch.isnan(targets)
    loss = F.binary_cross_entropy_with_logits(logits.float(), torch.nan_to_num(targets), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def write_scores(
    folder: Path, cases: Sequence[PreparedCase], logits: np.ndarray, diagnoses: Sequence[str], seed: int,
    not_computable: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write probabilities and logits (cases, labels) of validation cases, and their scores with intervals.

    Labels of `not_computable` were learnt from too few patients, which it tells: their scores are null.
    """
    truth = truth_of(cases, diagnoses)
    table = pd.DataFrame({"case": [case.name for case in cases]})
    for index, name in enumerate(diagnoses):
        table[name] = expit(logits[:, index]).round(5)
        table[f"{name}_logit"] = logits[:, index].round(5)
    write_text(folder / "predictions.csv", table.to_csv(index=False))
    patients = [case.patient for case in cases]
    scores = scores_but(diagnoses, truth, expit(logits), patients, seed, not_computable or {})
    summary = {"cases": len(cases), "labels": scores}
    write_json(folder / "summary.json", summary)
    return summary


def scores_but(
    diagnoses: Sequence[str], truth: np.ndarray, probability: np.ndarray, patients: Sequence[str], seed: int,
    not_computable: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """`score_labels`, the labels of `not_computable` null and left out of the macro mean, which says over how many it is."""
    left_out = np.array([name in not_computable for name in diagnoses])
    scores = score_labels(
        diagnoses, np.where(left_out, np.nan, truth), probability, patients, np.random.default_rng(seed)
    )
    for name, column in zip(diagnoses, truth.T, strict=True):
        if name in not_computable:
            known = column[~np.isnan(column)]
            counts = {"positive": int(known.sum()), "known": len(known)}
            scores[name] = {**scores[name], **counts, "not_computable": not_computable[name]}
    scored = sum(scores[name]["auroc"] is not None for name in diagnoses)
    scores["macro"] |= {"labels": scored, "labels_left_out": len(diagnoses) - scored}
    return scores


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
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return {
            row["case"]: row[[f"{name}_logit" for name in diagnoses]].to_numpy(float) for _, row in table.iterrows()
        }
    except (OSError, KeyError, ValueError) as fault:
        raise DatasetError(f"{path}: cannot be read ({fault}); run odiff_train with --validate-only again") from None
