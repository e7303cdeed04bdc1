"""A parametric ankle: tibia, fibula, talus, calcaneus, cartilage, Achilles tendon, lateral ligaments.

Right ankle around the talar dome, mm: x to the medial side, y backwards, z up.
"""

from collections.abc import Mapping

import numpy as np

from odiff.phantom.atlas import varied
from odiff.phantom.bands import Tear, band
from odiff.phantom.parts import Anatomy, Part, spots
from odiff.phantom.shapes import Shape, capsule, common, ellipsoid, shell, union

LABELS = {
    "background": 0, "tibia": 1, "fibula": 2, "talus": 3, "calcaneus": 4, "tibial_cartilage": 5, "talar_cartilage": 6,
    "achilles_tendon": 7,
}  # fmt: skip
DIAGNOSES = ("ATFL", "CFL", "ATR", "OLT")
LIGAMENT_TEAR = Tear((0.15, 0.4), 0.45, (4.0, 5.5))
ACHILLES_TEAR = Tear((0.45, 0.65), 0.2, (6.5, 9.0))


def ankle(rng: np.random.Generator, lesions: dict[str, int], given: Mapping[str, Shape]) -> Anatomy:
    """One patient's ankle with the abnormalities that are 1 in `lesions`; shapes of `given` replace the parametric ones."""
    size = rng.uniform(0.94, 1.06)
    tibia = union(
        capsule((5, -2, 30), (5, 0, 140), 13 * size), ellipsoid((3, 0, 16), (20 * size, 18, 12)),
        ellipsoid((20, -2, 4), (6, 11, 13)), blend=6,
    )  # fmt: skip
    fibula = union(capsule((-22, 8, 0), (-20, 8, 140), 6 * size), ellipsoid((-22, 6, -6), (6, 8, 12)), blend=4)
    talus = union(ellipsoid((1, 0, -9), (15 * size, 21, 11)), ellipsoid((4, -27, -13), (11, 13, 9)), blend=6)
    calcaneus = union(ellipsoid((-2, 28, -36), (14 * size, 28, 15)), ellipsoid((-6, -10, -34), (12, 22, 10)), blend=8)
    tibia, fibula = given.get("tibia", tibia), given.get("fibula", fibula)
    talus, calcaneus = given.get("talus", talus), given.get("calcaneus", calcaneus)
    foot = ellipsoid((3, -58, -32), (24 * size, 30, 15))
    bones = [(tibia, "tibia"), (fibula, "fibula"), (talus, "talus"), (calcaneus, "calcaneus"), (foot, "background")]
    parts = [*_surroundings(rng), *_fluid(rng)]
    parts += [Part(bone.grown(1.2), "cortex", "background") for bone, _ in bones]
    parts += [Part(bone, "marrow", name) for bone, name in bones]
    parts += spots(rng, int(rng.integers(2, 6)), [tibia, talus, calcaneus])
    parts += _cartilage(tibia, talus, rng, given)
    parts += _osteochondral_lesion(talus, rng) if lesions["OLT"] else []
    move = tuple(rng.normal(0, 1.0, 3))
    atfl = ((-21 + move[0], -3 + move[1], -9 + move[2]), (-11 + move[0], -20 + move[1], -12 + move[2]))
    cfl = ((-22 + move[0], 6 + move[1], -16 + move[2]), (-16 + move[0], 20 + move[1], -36 + move[2]))
    parts += band(*atfl, 2.4, LIGAMENT_TEAR, rng, lesions["ATFL"], "ATFL")
    parts += band(*cfl, 2.4, LIGAMENT_TEAR, rng, lesions["CFL"], "CFL")
    heel = ((0.0, 36.0, 120.0), (-2.0, 50.0, -26.0))
    achilles = band(*heel, 4.6 * size, ACHILLES_TEAR, rng, lesions["ATR"], "ATR", "achilles_tendon")
    if "achilles_tendon" in given:
        achilles[0] = Part(varied(given["achilles_tendon"], rng), "ligament", "achilles_tendon")
    parts += achilles
    return Anatomy(tuple(parts), dict(lesions))


def _surroundings(rng: np.random.Generator) -> list[Part]:
    skin = union(
        capsule((0, 8, -20), (0, 2, 150), 44 * rng.uniform(0.95, 1.08)),
        capsule((0, 30, -34), (0, -110, -46), 33 * rng.uniform(0.95, 1.05)), blend=15,
    )  # fmt: skip
    muscles = [
        capsule((0, 20, 50), (0, 18, 150), 15), capsule((-16, -16, 60), (-14, -14, 150), 11),
        capsule((0, 0, -54), (0, -60, -56), 9), capsule((14, 16, 20), (12, 14, 150), 9),
    ]  # fmt: skip
    tendons = [capsule((10, -24, -8), (4, -20, 120), 3), capsule((-24, 18, -20), (-22, 18, 90), 3)]
    tendons += [capsule((20, 14, -16), (16, 14, 60), 3)]
    return [
        Part(skin, "fat"),
        *(Part(muscle, "muscle") for muscle in muscles),
        *(Part(tendon, "ligament") for tendon in tendons),
        Part(capsule((8 + rng.normal(0, 2), -28, 0), (2, -24, 120), 2.4), "vessel"),
        *spots(rng, int(rng.integers(3, 9)), [skin]),
    ]


def _fluid(rng: np.random.Generator) -> list[Part]:
    """Some joint fluid is normal: no diagnosis hangs on it."""
    pouch = ellipsoid((2, -22, 2), (rng.uniform(6, 14), rng.uniform(2, 6), rng.uniform(4, 9)))
    behind = ellipsoid((2, 22, 0), (9, rng.uniform(2, 5), 6))
    return [Part(pouch, "fluid"), *([Part(behind, "fluid")] if rng.random() < 0.5 else [])]


def _cartilage(tibia: Shape, talus: Shape, rng: np.random.Generator, given: Mapping[str, Shape]) -> list[Part]:
    thickness = rng.uniform(2.2, 3.2)
    shapes = {
        "tibial_cartilage": common(shell(tibia, 0, thickness), ellipsoid((2, 0, 4), (17, 18, 6))),
        "talar_cartilage": common(shell(talus, 0, thickness), ellipsoid((1, 0, 0), (16, 20, 8))),
    }
    return [
        Part(varied(given[name], rng) if name in given else shape, "cartilage", name) for name, shape in shapes.items()
    ]


def _osteochondral_lesion(talus: Shape, rng: np.random.Generator) -> list[Part]:
    """A cleft of fluid at a shoulder of the talar dome, and oedema in the bone under it."""
    side = 9.0 if rng.random() < 0.6 else -9.0
    place = (side + rng.normal(0, 1), float(rng.uniform(-8, 8)), 0.0)
    return [
        Part(common(ellipsoid(place, (8, 10, 11)), talus), "oedema", None, "OLT"),
        Part(common(ellipsoid(place, (5, 6, 4)), talus.grown(3.2)), "fluid", None, "OLT"),
    ]
