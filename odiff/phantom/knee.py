"""A parametric knee: bones, cartilage, menisci, ligaments, fluid, and eight kinds of abnormality.

Right knee around the joint line, mm: x to the medial side, y backwards, z up.
"""

from collections.abc import Mapping

import numpy as np

from odiff.phantom.atlas import REACH_MM as MARGIN_MM
from odiff.phantom.atlas import varied
from odiff.phantom.bands import WORN, Tear, band, worn_core
from odiff.phantom.parts import Anatomy, Part, spots
from odiff.phantom.shapes import Shape, arc, capsule, common, ellipsoid, shell, union

LABELS = {
    "background": 0, "femur": 1, "tibia": 2, "patella": 3, "fibula": 4, "femoral_cartilage": 5, "tibial_cartilage": 6,
    "patellar_cartilage": 7, "medial_meniscus": 8, "lateral_meniscus": 9, "ACL": 10, "PCL": 11,
}  # fmt: skip
DIAGNOSES = ("ACL", "PCL", "MM", "LM", "MCL", "LCL", "PD", "EFFU")
COLLATERAL_TEAR = Tear((0.15, 0.55), 0.25, (3.3, 4.4))


def knee(rng: np.random.Generator, lesions: dict[str, int], given: Mapping[str, Shape]) -> Anatomy:
    """One patient's knee with the abnormalities that are 1 in `lesions`; shapes of `given` replace the parametric ones."""
    size = rng.uniform(0.94, 1.06)
    femur = union(
        capsule((0, -2, 26), (rng.uniform(-4, 4), 2, 120), 14 * size),
        ellipsoid((21, 5, 15), (17 * size, 27, 19)), ellipsoid((-21, 5, 15), (18 * size, 26, 19)), blend=8,
    )  # fmt: skip
    tibia = union(ellipsoid((0, 4, -23), (39 * size, 25, 15)), capsule((0, 2, -30), (0, 4, -120), 13 * size), blend=8)
    patella = ellipsoid((rng.uniform(-4, 4), -41, rng.uniform(16, 26)), (20 * size, 8.5, 20))
    fibula = capsule((-33, 17, -32), (-29, 14, -120), 7 * size)
    femur, tibia = given.get("femur", femur), given.get("tibia", tibia)
    patella, fibula = given.get("patella", patella), given.get("fibula", fibula)
    bones = [(femur, "femur"), (tibia, "tibia"), (patella, "patella"), (fibula, "fibula")]
    parts = [*_surroundings(rng), *_fluid(rng, lesions["EFFU"])]
    parts += [Part(bone.grown(1.2), "cortex", "background") for bone, _ in bones]
    parts += [Part(bone, "marrow", name) for bone, name in bones]
    parts += spots(rng, int(rng.integers(2, 6)), [femur, tibia, patella])
    parts += _cartilage(femur, tibia, patella, rng, given)
    parts += _patellar_lesion(patella, rng) if lesions["PD"] else []
    parts += _meniscus("medial_meniscus", "MM", 1, rng, lesions["MM"], given)
    parts += _meniscus("lateral_meniscus", "LM", -1, rng, lesions["LM"], given)
    shift = rng.normal(0, 2.0, (4, 3))
    acl = (np.array([4, -10, -8.0]) + shift[0], np.array([-9, 13, 13.0]) + shift[1])
    pcl = (np.array([-1, 24, -13.0]) + shift[2], np.array([7, -2, 11.0]) + shift[3])
    parts += _cruciate("ACL", *acl, 4.2, rng, lesions["ACL"])
    parts += _cruciate("PCL", *pcl, 4.8, rng, lesions["PCL"])
    parts += band((41 * size, 2, 24), (39 * size, -2, -42), 2.6, COLLATERAL_TEAR, rng, lesions["MCL"], "MCL")
    parts += band((-41 * size, 7, 22), (-38, 17, -34), 2.6, COLLATERAL_TEAR, rng, lesions["LCL"], "LCL")
    return Anatomy(tuple(parts), dict(lesions))


def _surroundings(rng: np.random.Generator) -> list[Part]:
    leg = capsule((0, 2, -140), (0, 2, 140), 64 * rng.uniform(0.95, 1.08))
    muscles = [
        capsule((24, 38, 30), (30, 34, 140), 20), capsule((-24, 38, 30), (-28, 34, 140), 19),
        capsule((16, 38, -20), (16, 34, -140), 19), capsule((-16, 38, -20), (-18, 34, -140), 19),
        capsule((20, -30, 55), (26, -30, 140), 18), capsule((-22, -30, 55), (-26, -30, 140), 18),
        capsule((-24, -22, -45), (-26, -20, -140), 14),
    ]  # fmt: skip
    tendons = [capsule((0, -45, 2), (0, -31, -36), 4.5), capsule((0, -43, 40), (0, -38, 90), 4.5)]
    vessels = [capsule((4, 38, -80), (4 + rng.normal(0, 3), 36, 80), 3.2), capsule((-4, 42, -80), (-3, 42, 80), 2.6)]
    return [
        Part(leg, "fat"),
        *(Part(muscle, "muscle") for muscle in muscles),
        *(Part(vessel, "vessel") for vessel in vessels),
        *(Part(tendon, "ligament") for tendon in tendons),
        *spots(rng, int(rng.integers(3, 9)), [leg]),
    ]


def _fluid(rng: np.random.Generator, is_effusion: int) -> list[Part]:
    """A little is normal in the notch and the recesses; an effusion fills the suprapatellar pouch."""
    parts = [Part(ellipsoid((0, 8, 0), (6, 12, 5)), "fluid")] if rng.random() < 0.5 else []
    parts += (
        [Part(ellipsoid((rng.uniform(-30, 30), 26, rng.uniform(0, 14)), (7, 5, 6)), "fluid")]
        if rng.random() < 0.5
        else []
    )
    depth = rng.uniform(4, 9) if is_effusion else rng.uniform(0.5, 5.0)
    width = rng.uniform(18, 30) if is_effusion else rng.uniform(8, 20)
    pouch = ellipsoid((0, -30, 46), (width, depth, rng.uniform(18, 26)))
    return [*parts, Part(pouch, "fluid", None, "EFFU" if is_effusion else None)]


def _cartilage(
    femur: Shape, tibia: Shape, patella: Shape, rng: np.random.Generator, given: Mapping[str, Shape]
) -> list[Part]:
    thickness = rng.uniform(3.0, 4.2)
    below = ellipsoid((0, 2, 8), (46, 40, 22))
    plateau = union(ellipsoid((20, 4, -8), (17, 20, 8)), ellipsoid((-20, 4, -8), (17, 20, 8)))
    behind = ellipsoid((0, -31, 21), (19, 7, 18))
    shapes = {
        "femoral_cartilage": common(shell(femur, 0, thickness), below),
        "tibial_cartilage": common(shell(tibia, 0, thickness), plateau),
        "patellar_cartilage": common(shell(patella, 0, thickness), behind),
    }
    return [
        Part(varied(given[name], rng) if name in given else shape, "cartilage", name) for name, shape in shapes.items()
    ]


def _patellar_lesion(patella: Shape, rng: np.random.Generator) -> list[Part]:
    """A cartilage defect filled with fluid, and oedema in the bone under it."""
    centre = (patella.low + patella.high) / 2
    side, height = rng.uniform(-8, 8), rng.uniform(-6, 6)
    surface = (float(centre[0] + side), float(patella.high[1]), float(centre[2] + height))
    defect = common(ellipsoid(surface, (5.5, 4, 5.5)), patella.grown(4.5))
    return [
        Part(common(ellipsoid(surface, (7, 8, 7)), patella), "oedema", None, "PD"),
        Part(common(defect, shell(patella, 0, 4.5)), "fluid", None, "PD"),
    ]


def _meniscus(
    label: str, lesion: str, side: int, rng: np.random.Generator, is_torn: int, given: Mapping[str, Shape]
) -> list[Part]:
    """A C around the plateau, open to the notch; a tear is a bright cleft through its posterior half."""
    outward = 0.0 if side > 0 else np.pi
    centre = (19.0 * side, 4.0, -6.0)
    body = arc(centre, rng.uniform(14, 16), rng.uniform(4.4, 5.2), outward, 2.3)
    parts = [Part(varied(given[label], rng) if label in given else body, "meniscus", label)]
    if not is_torn and rng.random() < WORN:
        place = outward + side * rng.uniform(-1.5, 1.5)
        parts.append(Part(arc(centre, 15, 2.8, float(place), 0.5), "cartilage"))
    if is_torn:
        middle = outward + side * rng.uniform(0.2, 1.8)
        cleft = arc(centre, 15, 6.5, float(middle), rng.uniform(0.2, 0.35))
        if label in given:
            cleft = _cleft(given[label], side, rng)
        parts.append(Part(cleft, "tear", None, lesion))
    return parts


def _cruciate(
    label: str, start: np.ndarray, end: np.ndarray, radius: float, rng: np.random.Generator, is_torn: int
) -> list[Part]:
    """A dark band, in some worn along its core; torn, a stretch of it is swollen and bright and the stumps sag."""
    if not is_torn:
        bow = (start + end) / 2 + rng.normal(0, 0.8, 3)
        band = union(capsule(tuple(start), tuple(bow), radius), capsule(tuple(bow), tuple(end), radius))
        return [Part(band, "ligament", label), *worn_core(tuple(start), tuple(end), radius, rng)]
    sag = rng.normal(0, 1.0, 3) + np.array([0, 0, -3.0])
    middle, half = rng.uniform(0.3, 0.7), rng.uniform(0.09, 0.16)
    near, far = start + (middle - half) * (end - start) + sag, start + (middle + half) * (end - start) + sag
    stumps = union(capsule(tuple(start), tuple(near), radius), capsule(tuple(far), tuple(end), radius))
    gap = capsule(tuple(near), tuple(far), radius * rng.uniform(1.0, 1.25))
    return [Part(gap, "tear", None, label), Part(stumps, "ligament", label)]


def _cleft(meniscus: Shape, side: int, rng: np.random.Generator) -> Shape:
    """A slab through the back of a given meniscus."""
    middle = (meniscus.low + meniscus.high) / 2
    place = (
        float(middle[0] + side * rng.uniform(-4, 6)), float(meniscus.high[1] - MARGIN_MM - rng.uniform(7, 11)), float(middle[2])
    )  # fmt: skip
    return common(meniscus.grown(1.5), ellipsoid(place, (float(rng.uniform(5, 7)), 9, 9)))
