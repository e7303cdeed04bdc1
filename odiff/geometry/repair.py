"""What is wrong with a file's geometry, and what of it can be mended without loss."""

import math

import numpy as np

LARGEST_REPAIR_DEG = 1.0


def orthonormal(direction: tuple[float, ...]) -> tuple[tuple[float, ...] | None, float]:
    """The nearest orthonormal direction cosines and how far off the given ones are, in degrees.

    Exact input comes back as it is; None where the deviation is over `LARGEST_REPAIR_DEG`.
    """
    given = np.asarray(direction, float).reshape(3, 3)
    if not np.isfinite(given).all() or np.linalg.norm(given, axis=0).min() < 1e-6:
        return None, 90.0
    columns = given / np.linalg.norm(given, axis=0)
    u, _, vt = np.linalg.svd(columns)
    nearest = u @ vt
    cosine = np.clip((nearest * columns).sum(axis=0), -1, 1)
    angle = math.degrees(float(np.arccos(cosine).max()))
    if angle > LARGEST_REPAIR_DEG:
        return None, angle
    if np.allclose(given, nearest, atol=1e-6):
        return tuple(float(value) for value in direction), 0.0
    return tuple(float(value) for value in nearest.ravel()), angle
