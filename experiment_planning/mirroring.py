"""Whether an axis may be mirrored: as augmentation, and at test time."""

import re

from odiff.dataset import DatasetDescription
from odiff.experiment_planning.fingerprint import Fingerprint
from odiff.experiment_planning.presets import Preset
from odiff.experiment_planning.reasons import Reasons
from odiff.geometry import MEDIAL_LATERAL_AXIS

SIDED = ("left", "right", "medial", "lateral")
SIDED_ABBREVIATIONS = ("MM", "LM", "MCL", "LCL")
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of medial_meniscus, MedialMeniscus, "meniscus (medial)"


def plan_mirroring(
    fingerprint: Fingerprint, description: DatasetDescription, view: str, preset: Preset, reasons: Reasons
) -> tuple[int, ...]:
    """Mirror the medial-lateral axis only if some laterality is unknown and no label is sided."""
    sided = sided_labels(description)
    axes: tuple[int, ...] = ()
    if preset.grid == "paper":
        rule = "off: the recipe mirrors nothing"
    elif not fingerprint.unknown_laterality:
        rule = "off: every laterality is known, left joints are mirrored to right"
    elif sided:
        rule = f"off: the label {sided[0]} has a side"
    else:
        axes, rule = (MEDIAL_LATERAL_AXIS[view],), "on: some laterality is unknown and no label has a side"
    reasons.add("mirror_axes", axes, rule, f"{fingerprint.unknown_laterality} cases of unknown laterality")
    return axes


def sided_labels(description: DatasetDescription) -> list[str]:
    """Labels and diagnoses that mean one side, but for the pairs of labels that are swapped on a flip: no diagnosis is."""
    swapped = {name for pair in description.left_right for name in pair}
    names = [*(name for name in description.labels if name not in swapped), *description.diagnoses]
    return [name for name in names if any(_is_sided(word) for word in WORDS.findall(name))]


def _is_sided(word: str) -> bool:
    return word.lower() in SIDED or word.upper() in SIDED_ABBREVIATIONS
