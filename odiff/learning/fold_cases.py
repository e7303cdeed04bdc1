"""Which cases of a fold a task learns from, and which it validates on."""

import logging

from odiff.data.index import PreparedCase
from odiff.errors import DatasetError
from odiff.learning.asked import TrainOptions
from odiff.learning.context import Context
from odiff.learning.run import RunSettings
from odiff.learning.subsets import LabelShare, is_labelled, knows_diagnosis, label_subset, share_of
from odiff.vocabulary import FUSED

log = logging.getLogger(__name__)


def training_cases(context: Context, fold: str, fraction: float, seed: int) -> tuple[PreparedCase, ...]:
    """The labelled training cases of a fold, or of the share of its patients that ``--label-fraction`` picks: the same for every
    view and task.
    """
    labelled = tuple(case for case in context.cases_of_fold(fold, "train") if is_labelled(case))
    return label_subset(labelled, fraction, seed, context.plan.diagnoses)


def known_cases(
    context: Context, view: str, fold: str, options: TrainOptions, settings: RunSettings
) -> tuple[tuple[PreparedCase, ...], tuple[PreparedCase, ...], LabelShare]:
    """The cases of a fold that have the view and a known diagnosis: to train on, by the label fraction, and to validate on.

    Also what share of the labels that is; `tell_not_computable` says what it lacks.

    Raises
    ------
    DatasetError
        There is no diagnosis to learn, of all cases or of a share of them.
    """
    if not context.plan.diagnoses:
        raise DatasetError(
            f"{context.dataset.name}: dataset.json declares no diagnosis.labels, so there is nothing to diagnose"
        )
    labelled = training_cases(context, fold, options.label_fraction, settings.seed)
    training = tuple(c for c in labelled if knows_diagnosis(c) and _has_view(c, view))
    share = share_of(training, options.label_fraction, context.plan.diagnoses)
    _check_labels(context, view, fold, share)
    validation = tuple(c for c in context.cases_of_fold(fold, "val") if knows_diagnosis(c) and _has_view(c, view))
    return training, validation, share


def _check_labels(context: Context, view: str, fold: str, share: LabelShare) -> None:
    """An error where no case has a diagnosis, or where a share of the patients has none that can be told from it."""
    of_share = "" if share.label_fraction == 1 else f" among the patients of --label-fraction {share.label_fraction:g}"
    if not share.patients:
        raise DatasetError(
            f"{context.dataset.name}: no {view} case of fold {fold}{of_share} has a known diagnosis; fill in cases.csv"
        )
    if of_share and len(share.not_computable) == len(context.plan.diagnoses):
        name, reason = next(iter(share.not_computable.items()))
        raise DatasetError(
            f"{context.dataset.name}: fold {fold}: no diagnosis is computable{of_share}: {name} has {reason}; give a larger share"
        )


def tell_not_computable(view: str, fold: str, share: LabelShare) -> None:
    """Warn of diagnoses that cannot be told from so few patients."""
    for name, reason in share.not_computable.items():
        log.warning("%s diagnosis fold %s: %s is not computable: %s", view, fold, name, reason)


def _has_view(case: PreparedCase, view: str) -> bool:
    return bool(case.series) if view == FUSED else bool(case.of_view(view))


def masked_names(cases: tuple[PreparedCase, ...], view: str) -> tuple[str, ...]:
    """The series of a view that have a mask."""
    return tuple(series.name for case in cases for series in case.of_view(view) if series.is_masked)
