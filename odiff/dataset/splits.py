"""Folds by patient in nnU-Net's splits_final.json: a list of {"train": [case...], "val": [case...]}."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from odiff.errors import DatasetError
from odiff.storage import read_json

Split = dict[str, list[str]]
FOLDS = 5


def make_splits(
    cases: Sequence[str], patients: Sequence[str], labels: np.ndarray, folds: int = FOLDS, seed: int = 12345
) -> list[Split]:
    """Folds whose validation sets hold each patient once and share every label as evenly as may be.

    Parameters
    ----------
    cases, patients : names, one entry per labelled case.
    labels : (cases, labels), 1, 0, or NaN where unknown; counts of rare labels are evened out first.

    Returns
    -------
    min(folds, patients) splits; one patient alone gives a DatasetError.

    Greedy iterative stratification (Sechidis et al. 2011): the rarest label is dealt out first, each patient to the
    fold that lacks most of it.
    """
    names = sorted(set(patients))
    count = min(folds, len(names))
    if count < 2:
        raise DatasetError(
            f"only {len(names)} labelled patient: folds need two; add patients, or train with --fold all"
        )
    per_patient = _patient_labels(names, patients, labels)
    fold_of = _deal(per_patient, count, np.random.default_rng(seed))
    chosen = dict(zip(names, fold_of, strict=True))
    return [
        {
            "train": sorted(c for c, p in zip(cases, patients, strict=True) if chosen[p] != fold),
            "val": sorted(c for c, p in zip(cases, patients, strict=True) if chosen[p] == fold),
        }
        for fold in range(count)
    ]


def _patient_labels(names: list[str], patients: Sequence[str], labels: np.ndarray) -> np.ndarray:
    positive = np.nan_to_num(np.asarray(labels, float).reshape(len(patients), -1))
    rows = {name: [i for i, patient in enumerate(patients) if patient == name] for name in names}
    return np.stack([positive[rows[name]].max(axis=0, initial=0) for name in names])


def _deal(per_patient: np.ndarray, folds: int, rng: np.random.Generator) -> list[int]:
    everyone = np.concatenate([per_patient, np.ones((len(per_patient), 1))], axis=1)
    lacking = np.tile(everyone.sum(axis=0) / folds, (folds, 1))
    fold_of = np.full(len(everyone), -1)
    order = rng.permutation(len(everyone))
    while (fold_of < 0).any():
        open_ = [i for i in order if fold_of[i] < 0]
        remaining = everyone[open_].sum(axis=0)
        label = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        for patient in (i for i in open_ if everyone[i, label] > 0):
            fold = int(np.lexsort((-lacking[:, -1], -lacking[:, label]))[0])
            fold_of[patient] = fold
            lacking[fold] -= everyone[patient]
    return [int(fold) for fold in fold_of]


def read_splits(path: Path, patient_of: dict[str, str], skipped: Collection[str] = ()) -> list[Split]:
    """A splits file, the user's own or odiff's, checked.

    Parameters
    ----------
    patient_of : patient of every case of the dataset.
    skipped : cases that the folds may name and are left without.

    Raises
    ------
    DatasetError
        Broken JSON or another format, an unknown case, or a patient on both sides of a split.
    """
    content = read_json(path, DatasetError, "delete it to have new splits made")
    named = {case: f"\0{case}" for case in skipped} | patient_of  # each another patient
    found = check_splits(content, str(path), named)
    return [{part: [case for case in cases if case in patient_of] for part, cases in fold.items()} for fold in found]


def check_splits(content: Any, where: str, patient_of: dict[str, str]) -> list[Split]:
    """What `json.load` gave as splits; raises as `read_splits` does, messages start with `where`."""
    if not isinstance(content, list) or not content or not all(_is_split(split) for split in content):
        raise DatasetError(
            f'{where}: expected a list of {{"train": [cases], "val": [cases]}}; delete it to have new splits made'
        )
    for number, split in enumerate(content):
        _check_split(where, number, split, patient_of)
    return content


def _is_split(split: Any) -> bool:
    return (
        isinstance(split, dict)
        and set(split) == {"train", "val"}
        and all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in split.values())
    )


def _check_split(where: str, number: int, split: Split, patient_of: dict[str, str]) -> None:
    for part, cases in split.items():
        for case in cases:
            if case not in patient_of:
                raise DatasetError(
                    f"{where}: fold {number}, {part}: case {case!r} is not in the dataset; remove it or add its images"
                )
    both = {patient_of[case] for case in split["train"]} & {patient_of[case] for case in split["val"]}
    if both:
        raise DatasetError(
            f"{where}: fold {number}: patient {min(both)!r} is in train and in val; keep all cases of a patient on one side"
        )
