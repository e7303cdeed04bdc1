"""What a form would say of a phantom patient: age and injury tell something of some diagnoses, sex tells nothing."""

from collections.abc import Mapping

import numpy as np

COLUMNS = {"age": "continuous", "sex": "categorical", "injury": "categorical"}
# Diagnoses of wear, which come with age, and those of trauma, which come with an injury; effusions come with neither.
OF_WEAR = ("MM", "LM", "PD", "ATR", "OLT", "SSP", "ISP", "SSC")
OF_TRAUMA = ("ACL", "PCL", "MCL", "LCL", "ATFL", "CFL", "AC", "GHJ")
INJURIES = ("none", "twist", "fall")
YOUNG, OLD, SPREAD = 28.0, 66.0, 7.0
UNKNOWN = 0.1

Cell = int | str | None


def draw_table(diagnoses: Mapping[str, int], rng: np.random.Generator) -> dict[str, Cell]:
    """Age in years, sex and injury, age and injury unknown in `UNKNOWN` of the patients."""
    worn, torn = (_share(diagnoses, names) for names in (OF_WEAR, OF_TRAUMA))
    age = int(np.clip(rng.normal(YOUNG + (OLD - YOUNG) * worn, SPREAD), 18, 90))
    injured = 0.05 + 0.9 * torn
    injury = INJURIES[int(rng.choice(len(INJURIES), p=(1 - injured, injured / 2, injured / 2)))]
    sex = "FM"[int(rng.integers(2))]
    is_known = rng.random(2) >= UNKNOWN
    return {"age": age if is_known[0] else None, "sex": sex, "injury": injury if is_known[1] else None}


def _share(diagnoses: Mapping[str, int], names: tuple[str, ...]) -> float:
    """How many of those of `names` that the joint has are there."""
    own = [value for name, value in diagnoses.items() if name in names]
    return float(np.mean(own)) if own else 0.0
