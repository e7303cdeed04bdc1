"""Recipes that count in epochs: their steps from the number of cases of the dataset."""

from dataclasses import replace

from odiff.dataset.splits import FOLDS
from odiff.experiment_planning.fingerprint import Fingerprint
from odiff.experiment_planning.presets import Preset


def with_epochs_as_steps(preset: Preset, fingerprint: Fingerprint) -> Preset:
    """The preset with the steps of its `epochs`, over the training share of five folds; as it is where it counts in steps."""
    epochs = preset.epochs
    if epochs is None:
        return preset
    from odiff.learning.warm_up import BATCH as HEAD_BATCH  # imports what training needs

    masked = max((view.masked for view in fingerprint.views.values()), default=0)
    diagnosed = max((counts["positive"] + counts["negative"] for counts in fingerprint.diagnoses.values()), default=0)
    return replace(
        preset,
        segmentation=replace(preset.segmentation, steps=steps_of(epochs.segmentation, masked, preset.limits.batch_size)),
        diagnosis=replace(
            preset.diagnosis, steps=steps_of(epochs.diagnosis, diagnosed, preset.diagnosis.batch_size),
            head_steps=steps_of(epochs.diagnosis_head, diagnosed, HEAD_BATCH),
        ),
        fusion=replace(preset.fusion, steps=steps_of(epochs.fusion, diagnosed, preset.diagnosis.batch_size)),
    )  # fmt: skip


def steps_of(epochs: int, cases: int, batch_size: int, folds: int = FOLDS) -> int:
    """Updates of `epochs` passes over the training cases of one fold; at least 1."""
    training = cases * (folds - 1) // folds
    return max(1, epochs * -(-training // batch_size))
