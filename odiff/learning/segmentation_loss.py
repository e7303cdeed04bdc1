"""Dice and cross-entropy over voxels whose class is known."""

import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.data.batches import IGNORE


def soft_dice_loss(logits: Tensor, classes: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - mean over foreground classes of 2 |P T| / (|P| + |T|), sums over the whole batch (Drozdzal et al. 2016).

    Parameters
    ----------
    logits : (b, classes, z, y, x).
    classes : (b, z, y, x) int64; voxels at `IGNORE` count nowhere.

    Classes that are absent from the batch's known voxels are pushed down by the cross-entropy alone.
    """
    known = (classes != IGNORE)[:, None]
    share = logits.float().softmax(dim=1)[:, 1:] * known
    truth = F.one_hot(classes.clamp(min=0), logits.shape[1]).movedim(-1, 1)[:, 1:] * known
    overlap = (share * truth).sum(dim=(0, 2, 3, 4))
    sizes = share.sum(dim=(0, 2, 3, 4)) + truth.sum(dim=(0, 2, 3, 4))
    dice = (2 * overlap + smooth) / (sizes + smooth)
    is_present = truth.sum(dim=(0, 2, 3, 4)) > 0
    if not is_present.any():
        return (share * 0).sum()
    return 1 - dice[is_present].mean()


def cross_entropy(logits: Tensor, classes: Tensor, weighting: str = "inverse_sqrt") -> Tensor:
    """Cross-entropy over known voxels, each class weighted by 1/sqrt(its voxels in the batch) or not; 0 where none is known.

    Unweighted, thin structures wait until the background is learnt (docs/decisions.md).
    """
    known = classes[classes != IGNORE]
    if not len(known):
        return (logits.float() * 0).sum()
    if weighting == "none":
        return F.cross_entropy(logits.float(), classes, ignore_index=IGNORE)
    voxels = torch.bincount(known, minlength=logits.shape[1]).float()
    weight = torch.where(voxels > 0, voxels.clamp(min=1).rsqrt(), torch.zeros_like(voxels))
    return F.cross_entropy(logits.float(), classes, weight=weight, ignore_index=IGNORE)


def segmentation_loss(
    logits: Tensor, classes: Tensor, dice_weight: float, cross_entropy_weight: float, weighting: str = "inverse_sqrt"
) -> Tensor:
    """Weighted sum of both; `classes` of any integer type."""
    classes = classes.long()
    unlikely = cross_entropy(logits, classes, weighting)
    return dice_weight * soft_dice_loss(logits, classes) + cross_entropy_weight * unlikely


@torch.no_grad()
def hard_dice_parts(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Overlap and sizes per foreground class, to be summed over batches: Dice = 2 overlap / sizes."""
    known = classes != IGNORE
    predicted = logits.argmax(dim=1)
    numbers = range(1, logits.shape[1])
    overlap = torch.stack([((predicted == n) & (classes == n) & known).sum() for n in numbers])
    sizes = torch.stack([((predicted == n) & known).sum() + ((classes == n) & known).sum() for n in numbers])
    return overlap, sizes
