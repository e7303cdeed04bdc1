"""Where the body is in a volume: everything outside is air and wastes the patch."""

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from scipy import ndimage

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def body_mask(array: np.ndarray) -> np.ndarray:
    """True where a volume (z, y, x) shows the body rather than air.

    A tenth of the 99th percentile separates the two: air is dark in every MR contrast, and Otsu's threshold would
    cut dark bone and muscle away in fat-bright ones. Single bright voxels of noise are opened away in plane.
    """
    threshold = float(array.min()) + 0.1 * (float(np.percentile(array, 99)) - float(array.min()))
    bright = array > threshold
    opened = ndimage.binary_opening(bright, structure=np.ones((1, 3, 3), bool))
    return opened if opened.any() else np.ones_like(bright)


def body_box(body: np.ndarray) -> Box:
    """Half-open bounding box of the body along each axis."""
    box = get_bbox_from_mask(body)
    return tuple((int(low), int(high)) for low, high in box)  # type: ignore[return-value]
