"""A parametric shoulder: humerus, scapula, clavicle, cartilage, rotator cuff, long head of biceps.

Right shoulder around the glenohumeral joint, mm: x to the medial side, y backwards, z up.
"""

from collections.abc import Mapping

import numpy as np

from odiff.phantom.bands import Tear, band
from odiff.phantom.parts import Anatomy, Part, spots
from odiff.phantom.shapes import Point, Shape, capsule, common, ellipsoid, shell, union

LABELS = {
    "background": 0, "humerus": 1, "scapula": 2, "clavicle": 3, "humeral_cartilage": 4, "supraspinatus": 5,
    "infraspinatus": 6, "subscapularis": 7, "LHBT": 8,
}  # fmt: skip
DIAGNOSES = ("SSP", "ISP", "SSC", "LHBT", "AC", "GHJ", "LHBT_EFFU", "SASD")
CUFF_TEAR = Tear((0.55, 0.65), 0.3, (5.0, 6.5))
BICEPS_TEAR = Tear((0.2, 0.5), 0.4, (4.5, 6.0))


def shoulder(rng: np.random.Generator, lesions: dict[str, int], given: Mapping[str, Shape]) -> Anatomy:
    """One patient's shoulder with the abnormalities that are 1 in `lesions`; `given` shapes replace parametric ones."""
    size = rng.uniform(0.94, 1.06)
    head = ellipsoid((-12, 0, 0), (24 * size, 23, 24))
    humerus = union(
        head, capsule((-22, 0, -22), (-26, 2, -140), 12 * size), ellipsoid((-28, -3, 4), (10, 12, 13)), blend=6
    )
    scapula = union(
        ellipsoid((20, 4, -2), (7, 12, 17 * size)), capsule((26, 6, -2), (62, 18, -8), 7), ellipsoid((52, 22, -30), (24, 5, 44)),
        capsule((20, -12, 14), (6, -30, 16), 5.5), blend=5,
    )  # fmt: skip
    acromion = union(ellipsoid((-12, 14, 36), (15 * size, 22, 5)), capsule((0, 24, 34), (60, 30, 22), 5), blend=4)
    clavicle = capsule((8, -4, 38), (95, -24, 40), 6.5 * size)
    humerus, scapula = given.get("humerus", humerus), given.get("scapula", scapula)
    clavicle = given.get("clavicle", clavicle)
    bones = [
        (humerus, "humerus"),
        (scapula, "scapula"),
        *([] if "scapula" in given else [(acromion, "scapula")]),
        (clavicle, "clavicle"),
    ]
    parts = [*_surroundings(rng)]
    parts += _effusion(rng, lesions["GHJ"])
    parts += [Part(bone.grown(1.2), "cortex", "background") for bone, _ in bones]
    parts += [Part(bone, "marrow", name) for bone, name in bones]
    parts += spots(rng, int(rng.integers(2, 6)), [humerus, scapula])
    thickness = rng.uniform(2.2, 3.4)
    facing = ellipsoid((4, 1, 0), (14, 20, 21))
    cartilage = given.get("humeral_cartilage", common(shell(head, 0, thickness), facing))
    parts += [Part(cartilage, "cartilage", "humeral_cartilage")]
    parts += _cuff("supraspinatus", (26, 12, 27), (96, 16, 25), 10, (-27, -4, 20), "SSP", rng, lesions, given)
    parts += _cuff("infraspinatus", (28, 30, 2), (94, 36, -12), 12, (-24, 19, 12), "ISP", rng, lesions, given)
    parts += _cuff("subscapularis", (28, -10, -8), (88, 6, -14), 12, (-22, -24, 0), "SSC", rng, lesions, given)
    parts += _biceps(rng, lesions)
    parts += _bursa(rng, lesions["SASD"])
    parts += _acromioclavicular(rng, lesions["AC"])
    return Anatomy(tuple(parts), dict(lesions))


def _surroundings(rng: np.random.Generator) -> list[Part]:
    stretch = rng.uniform(0.95, 1.08)
    arm, chest = capsule((-16, 2, 0), (-22, 2, -150), 52 * stretch), ellipsoid((110, 10, -60), (110, 80, 120))
    skin = union(arm, chest, blend=30)
    deltoid = shell(ellipsoid((-14, 0, -8), (33, 34, 50)), 3, 15)
    lateral = ellipsoid((-42, 0, -6), (38, 52, 64))
    pectoral = ellipsoid((44, -46, -30), (44, 13, 44))
    return [
        Part(skin, "fat"),
        Part(common(deltoid, lateral), "muscle"),
        Part(pectoral, "muscle"),
        Part(ellipsoid((120, 10, -80), (50, 50, 80)), "air"),
        Part(capsule((40 + rng.normal(0, 3), -24, -30), (10, -18, -120), 4), "vessel"),
        *spots(rng, int(rng.integers(3, 9)), [arm]),
    ]


def _effusion(rng: np.random.Generator, is_effusion: int) -> list[Part]:
    """Fluid in the axillary recess; a film of it is normal."""
    depth = rng.uniform(9, 13) if is_effusion else rng.uniform(2.5, 4.5)
    recess = ellipsoid((8, 2, -26), (rng.uniform(10, 14), depth, depth))
    return [Part(recess, "fluid", None, "GHJ" if is_effusion else None)]


def _cuff(
    label: str, near: Point, far: Point, radius: float, insertion: Point, lesion: str, rng: np.random.Generator,
    lesions: dict[str, int], given: Mapping[str, Shape],
) -> list[Part]:  # fmt: skip
    """A muscle, and its tendon over the head to the tuberosity."""
    muscle = Part(given.get(label, capsule(near, far, radius * rng.uniform(0.9, 1.1))), "muscle", label)
    over = tuple(0.45 * a + 0.55 * b for a, b in zip(near, insertion, strict=True))
    lift = 4.0
    over = (over[0], over[1] * (1 + lift / 24), over[2] + (lift if label == "supraspinatus" else 0.0))
    start = Part(capsule(near, over, 4.2), "ligament", label)
    return [muscle, start, *band(over, insertion, 3.6, CUFF_TEAR, rng, lesions[lesion], lesion, label)]


def _biceps(rng: np.random.Generator, lesions: dict[str, int]) -> list[Part]:
    """The tendon in its groove; an effusion is a sleeve of fluid around it."""
    low, high = (-20.0, -25.0, -70.0), (-19.0 + float(rng.normal(0, 1)), -24.0, 4.0)
    sleeve = Part(capsule(low, (high[0], high[1], -14.0), rng.uniform(5.5, 7.0)), "fluid", None, "LHBT_EFFU")
    parts = [sleeve] if lesions["LHBT_EFFU"] else []
    return [*parts, *band(low, high, 2.8, BICEPS_TEAR, rng, lesions["LHBT"], "LHBT", "LHBT")]


def _bursa(rng: np.random.Generator, is_full: int) -> list[Part]:
    """The subacromial and subdeltoid bursa: a layer of fluid over the cuff."""
    if not is_full:
        return []
    layer: Shape = shell(ellipsoid((-13, 0, 0), (28, 27, 27)), 1.5, rng.uniform(4.5, 6.0))
    return [Part(common(layer, ellipsoid((-30, 2, 26), (20, 20, 16))), "fluid", None, "SASD")]


def _acromioclavicular(rng: np.random.Generator, is_arthrotic: int) -> list[Part]:
    """A normal joint is a thin line of fluid; an arthrotic one swells, with oedema on both sides."""
    gap = Part(ellipsoid((3, 4, 38), (2, 5, 4)), "fluid")
    if not is_arthrotic:
        return [gap]
    swollen = ellipsoid((3, 3, 40), (4.5, 8, rng.uniform(7, 9)))
    return [Part(ellipsoid((3, 4, 37), (13, 10, 6)), "oedema", None, "AC"), Part(swollen, "fluid", None, "AC")]
