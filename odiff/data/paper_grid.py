"""The grid of the paper's recipe: sixteen middle slices of the array as its files hold it, 256 x 256 pixels, -1 to 1.

Nothing is turned by anatomy and nothing is cropped: weights released with the paper saw knees lie as their files did.
"""

import numpy as np
import torch
from torch.nn import functional as F

from odiff.data.body import Box
from odiff.geometry import Frame, Volume, to_canonical

# NIfTI's (i, j, k) are the reversed axes of a stored array (k, j, i); the recipe permutes them to (k, i, j).
PAPER_FRAME = Frame((0, 2, 1), (False, False, False))


def middle_slices(slices: int, wanted: int) -> tuple[int, int]:
    """From ``slices // 2 - wanted // 2`` on, `wanted` of them, as far as there are any; half open."""
    low = max(0, slices // 2 - wanted // 2)
    return low, min(slices, slices // 2 - wanted // 2 + wanted)


def paper_image(volume: Volume, shape_zyx: tuple[int, int, int]) -> tuple[np.ndarray, Box]:
    """The middle slices, resized in plane by linear interpolation, then their smallest value to -1 and their largest to 1.

    Parameters
    ----------
    shape_zyx : what the network takes; a volume of fewer slices is interpolated along them too, which the recipe does not provide for.

    Returns
    -------
    (z, y, x) float32, and the box that was taken of the turned volume.
    """
    turned = to_canonical(volume.array, PAPER_FRAME)
    low, high = middle_slices(turned.shape[0], shape_zyx[0])
    taken = torch.from_numpy(np.ascontiguousarray(turned[low:high], np.float32))[None]
    resized = F.interpolate(taken, size=shape_zyx[1:], mode="bilinear")
    if high - low != shape_zyx[0]:
        resized = F.interpolate(resized[None], size=shape_zyx, mode="trilinear")[0]
    lowest, highest = torch.aminmax(resized)
    image = (resized[0] - lowest) / (highest - lowest).clamp(min=1e-6) * 2 - 1
    return image.numpy(), ((low, high), (0, turned.shape[1]), (0, turned.shape[2]))
