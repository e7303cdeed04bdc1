"""The part of a volume that a structure lies in, so that distances are computed there alone."""

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice, get_bbox_from_mask


def near_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of a mask that holds voxels, one voxel wider on every side that the volume allows."""
    return bounding_box_to_slice([[max(0, low - 1), high + 1] for low, high in get_bbox_from_mask(mask)])
