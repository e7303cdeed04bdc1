"""Bending volumes onto a template: a few control points are displaced, by Gauss-Newton steps on normalised squared differences.

A displacement is interpolated linearly between control points (a free-form deformation of degree 1, Rueckert et al. 1999) and given
as `torch.nn.functional.grid_sample` counts, an axis being 2 long, so that it holds at every resolution. Neighbouring points are
drawn together, and none may pass another.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from odiff.plan.schema import Triple

MOST_POINTS, CELLS_PER_POINT = 4, 6
STIFFNESS = 0.025
RIDGE = 0.02
REACH = 0.4
STEPS = 4
LEAST = 1e-4
AT_ONCE = 32
FEW_VOXELS = 2**19  # that a CPU reads at once
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def control_points(shape_zyx: Triple) -> Triple:
    """How many control points each axis has; with one it is not bent, only moved."""
    z, y, x = (max(1, min(MOST_POINTS, round(size / CELLS_PER_POINT))) for size in shape_zyx)
    return z, y, x


def normalised(volumes: Tensor, weight: Tensor) -> Tensor:
    """Volumes (n, z, y, x) to mean 0 and deviation 1 under `weight` (z, y, x), which sums to 1; those that are flat to 0."""
    centred = volumes - (volumes * weight).sum(dim=(1, 2, 3), keepdim=True)
    deviation = (centred.square() * weight).sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(deviation > LEAST, centred / deviation.clamp(min=LEAST), 0.0)


def bent(volumes: Tensor, by: Tensor) -> Tensor:
    """Volumes (n, 1, z, y, x) read at places displaced by control points `by` (n, 3, points along z, y, x); the border is continued."""
    return displaced(volumes, spread(by, volumes.shape[2:]))


def spread(by: Tensor, shape_zyx: torch.Size) -> Tensor:
    """The displacement (n, 3, z, y, x) of each voxel from those of control points `by`."""
    return torch.einsum("naijk,zi,yj,xk->nazyx", by, *_interpolation(shape_zyx, by))


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The displacements (n, 3, z, y, x) of volumes that are displaced by `first`, and then, as they are seen then, by `second`."""
    places = _places(second, second.shape[2:])
    return second + F.grid_sample(first, places, align_corners=False, padding_mode="border")


def displaced(volumes: Tensor, by: Tensor) -> Tensor:
    """Volumes (n, 1, z, y, x) read at places displaced `by` (n, 3, ...), which may be coarser; the border is continued."""
    shape, pieces, is_cpu = volumes.shape[2:], [], volumes.device.type == "cpu"
    # The places of a volume take three times its memory.
    at_once = max(1, min(AT_ONCE, FEW_VOXELS // shape.numel())) if is_cpu else AT_ONCE
    for some, moves in zip(volumes.float().split(at_once), by.split(at_once), strict=True):
        places = _places(moves, shape)
        by_slice = is_cpu and len(some) == 1
        if by_slice:  # each as a sample of its own, as samples are what torch's threads share
            some, places = some.expand(shape[0], -1, -1, -1, -1), places.transpose(0, 1)
        read = F.grid_sample(some, places, align_corners=False, padding_mode="border")
        pieces.append(read.transpose(0, 2) if by_slice else read)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _places(by: Tensor, shape_zyx: torch.Size) -> Tensor:
    """Where each voxel is read, (n, z, y, x, 3) in the order x, y, z, an axis going from -1 to 1; `by` as displacements come."""
    places = by.flip(1)
    for axis, size in enumerate(shape_zyx, start=2):
        if places.shape[axis] != size:
            known = places.shape[axis]  # values in the middles of as many parts of the axis
            at = ((torch.arange(size, device=by.device) + 0.5) * known / size - 0.5).clamp(0, known - 1)
            shares = _hats(at, known)
            places = (places.transpose(axis, 4) @ shares.T).transpose(axis, 4)
    z, y, x = ((2 * torch.arange(size, device=by.device) + 1) / size - 1 for size in shape_zyx)
    places[:, 0] += x
    places[:, 1] += y[:, None]
    places[:, 2] += z[:, None, None]
    return places.permute(0, 2, 3, 4, 1)


def _hats(at: Tensor, count: int) -> Tensor:
    """(n, count): what each of `count` evenly spread values has in linear interpolation at the places `at` (n,), 0 .. count - 1."""
    return (1 - (at[:, None] - torch.arange(count, device=at.device)).abs()).clamp(min=0)


def bends(small: Tensor, template: Tensor, weight: Tensor) -> Tensor:
    """The control points' displacements that bring volumes onto a template.

    Parameters
    ----------
    small : (n, 1, z, y, x).
    template, weight : (z, y, x), or of templates one for each volume, (n, z, y, x).

    Returns
    -------
    (n, 3, points along z, y, x), for `bent`; of all steps' the ones with the least difference, which may be none.
    """
    depth, rows, columns = small.shape[2:]
    points = control_points((depth, rows, columns))
    weight = weight / weight.sum()
    wanted = normalised(template if template.dim() == 4 else template[None], weight)
    by = torch.zeros((len(small), 3, *points), device=small.device)
    stiffness = STIFFNESS * torch.block_diag(*[_stiffness(points).to(by)] * 3)
    most = torch.tensor([REACH * 2 / max(1, size - 1) for size in points], device=by.device).view(1, 3, 1, 1, 1)
    best, least = by, torch.full((len(small),), torch.inf, device=by.device)
    for left in reversed(range(STEPS + 1)):
        seen = normalised(bent(small, by)[:, 0], weight)
        rest = seen - wanted
        difference = (weight * rest.square()).sum(dim=(1, 2, 3))
        best = torch.where((difference < least)[:, None, None, None, None], by, best)
        least = torch.minimum(difference, least)
        if left:
            gradient, curvature = _normal_equations(_slopes(seen), rest, weight, by)
            step = torch.linalg.solve(curvature + stiffness, gradient + by.flatten(1) @ stiffness)
            by = (by - step.view_as(by)).clamp(-most, most)
    return best


def _normal_equations(slopes: Tensor, rest: Tensor, weight: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (n, 3 * points) of half the weighted squares of `rest` (n, z, y, x), and its Gauss-Newton curvature.

    `slopes` (n, 3, z, y, x) is how what is seen changes with a displacement; `by` tells the control points.
    """
    axes, count = _interpolation(rest.shape[1:], by), by[0, 0].numel()
    gradient = torch.einsum("nazyx,zi,yj,xk->naijk", slopes * (weight * rest)[:, None], *axes).flatten(1)
    curvature = torch.zeros((len(by), 3, count, 3, count), device=by.device)
    one, other = zip(*PAIRS, strict=True)
    products = slopes[:, one] * slopes[:, other] * weight
    parts = _between_points(products.flatten(0, 1), axes).unflatten(0, (len(by), len(PAIRS)))
    for number, (a, b) in enumerate(PAIRS):
        curvature[:, a, :, b] = curvature[:, b, :, a] = parts[:, number]
    return gradient, curvature.view(len(by), 3 * count, 3 * count)


def _interpolation(shape_zyx: torch.Size, by: Tensor) -> list[Tensor]:
    """By axis the share (size, points) that each control point has at each voxel: hats between evenly spread points."""
    found = []
    for size, count in zip(shape_zyx, by.shape[2:], strict=True):
        at = (torch.arange(size, device=by.device) + 0.5) / size * (count - 1)
        found.append(_hats(at, count))
    return found


def _between_points(products: Tensor, axes: list[Tensor]) -> Tensor:
    """The sum over voxels of `products` (n, z, y, x) times each two control points' shares: (n, points, points)."""
    (pz, py, px), count = (one.shape[1] for one in axes), len(products)
    pairs = [torch.einsum("si,sj->sij", one, one).flatten(1) for one in axes]
    summed = torch.einsum("nzyx,zi,yj,xk->nijk", products, *pairs).view(count, pz, pz, py, py, px, px)
    return summed.permute(0, 1, 3, 5, 2, 4, 6).reshape(count, pz * py * px, pz * py * px)


def _slopes(volumes: Tensor) -> Tensor:
    """Central differences of volumes (n, z, y, x) along each axis, which is 2 long: (n, 3, z, y, x)."""
    around = F.pad(volumes[:, None], (1, 1, 1, 1, 1, 1), mode="replicate")[:, 0]
    inner = slice(1, -1)
    z = around[:, 2:, inner, inner] - around[:, :-2, inner, inner]
    y = around[:, inner, 2:, inner] - around[:, inner, :-2, inner]
    x = around[:, inner, inner, 2:] - around[:, inner, inner, :-2]
    sizes = torch.tensor(volumes.shape[1:], device=volumes.device).view(1, 3, 1, 1, 1)
    return torch.stack([z, y, x], dim=1) * sizes / 4


def _stiffness(points: Triple) -> Tensor:
    """The quadratic form (points, points) of the differences between neighbouring control points, and a little of their size."""
    count = points[0] * points[1] * points[2]
    number = torch.arange(count).view(points)
    form = RIDGE * torch.eye(count)
    for axis, size in enumerate(points):
        one, other = number.narrow(axis, 0, size - 1).flatten(), number.narrow(axis, 1, size - 1).flatten()
        difference = torch.zeros((len(one), count))
        difference[torch.arange(len(one)), one], difference[torch.arange(len(one)), other] = 1.0, -1.0
        form += difference.T @ difference
    return form
