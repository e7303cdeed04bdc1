"""Bringing volumes to a template by translation: the displacement with the largest normalised correlation, by FFT; then by bending.

Normalised cross-correlation at all displacements at once over what of the template lies inside the volume, as Padfield 2012 (Masked
object registration in the Fourier domain) derives it; the template's mask is a smooth weight around its centre.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.bending import AT_ONCE, bends, bent, composed, displaced, spread
from odiff.plan.schema import Triple

CELLS = 32
REACH = 0.25
SPREAD = 0.8
ROUNDS, BENDING_ROUNDS = 4, 2
# How often a volume is bent: what was out of a control point's reach, or hidden, is not once the volume is bent.
BENDINGS = 2
LEAST = 1e-6


def shrinkage(shape_zyx: Sequence[int]) -> Triple:
    """By how much each axis is shrunk: to `CELLS` or a little more, less than twice as many."""
    depth, rows, columns = (max(1, size // CELLS) for size in shape_zyx)
    return depth, rows, columns


def shrunk(volumes: Tensor) -> Tensor:
    """Volumes (n, 1, z, y, x) averaged over as many voxels as `shrinkage` says."""
    return F.avg_pool3d(volumes.float(), shrinkage(volumes.shape[2:]), ceil_mode=True)


def shrunk_shape(shape_zyx: Triple) -> Triple:
    """The shape of `shrunk` volumes."""
    z, y, x = (-(-size // by) for size, by in zip(shape_zyx, shrinkage(shape_zyx), strict=True))
    return z, y, x


def outlines(volumes: Tensor) -> Tensor:
    """Volumes (n, 1, z, y, x), shrunk, to where their intensity changes: what displacements are looked for on.

    The root of the standard deviation over each voxel and its neighbours, averaged over neighbours twice. Sequences that show the same
    joint in opposite contrasts have the same outlines.
    """
    small = shrunk(volumes)
    found = (_around(small.square()) - _around(small).square()).clamp(min=0) ** 0.25
    return _around(_around(found))


def _around(volumes: Tensor) -> Tensor:
    return F.avg_pool3d(volumes, 3, 1, 1, count_include_pad=False)


def centre_weight(shape_zyx: Sequence[int]) -> Tensor:
    """(z, y, x), 1 in the middle, falling smoothly to the border: a joint is imaged around its centre."""
    axes = [torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in shape_zyx]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.exp(-(z**2 + y**2 + x**2) / SPREAD)


def correlations(small: Tensor, template: Tensor) -> Tensor:
    """The weighted correlation of each volume with the template at every displacement.

    Parameters
    ----------
    small : (n, 1, z, y, x), from `outlines`.
    template : (z, y, x), the mean of such volumes, or (n, z, y, x), one for each.

    Returns
    -------
    (n, 2 r + 1, ...) along z, y and x, r being `REACH` of the axis: the template's centre moved by -r .. r voxels.
    """
    reach = [round(REACH * size) for size in template.shape[-3:]]
    weight = centre_weight(template.shape[-3:]).to(template)
    pads = [one for size in reversed(reach) for one in (size, size)]
    x, inside = F.pad(small.float()[:, 0], pads), F.pad(torch.ones_like(weight), pads)[None]

    def spectrum(of: Tensor) -> Tensor:
        return torch.fft.rfftn(of, s=x.shape[1:], dim=(-3, -2, -1))

    def correlated(of: Tensor, kernel: Tensor) -> Tensor:
        whole = torch.fft.irfftn(of * kernel.conj(), s=x.shape[1:], dim=(-3, -2, -1))
        return whole[:, : 2 * reach[0] + 1, : 2 * reach[1] + 1, : 2 * reach[2] + 1]

    ones, first, second = (spectrum(weight * one) for one in (torch.ones_like(weight), template, template.square()))
    is_in, values, squares = spectrum(inside), spectrum(x), spectrum(x.square())
    total = correlated(is_in, ones)
    mean, level = correlated(values, ones) / total, correlated(is_in, first) / total
    spread = (correlated(squares, ones) / total - mean.square()).clamp(min=LEAST)
    contrast = (correlated(is_in, second) / total - level.square()).clamp(min=LEAST)
    return (correlated(values, first) / total - mean * level) / (spread * contrast).sqrt()


def displacements(small: Tensor, template: Tensor) -> Tensor:
    """Where the template's centre lies in each volume, relative to the volume's own centre.

    Takes what `correlations` takes. Returns (n, 3) voxels along z, y and x, interpolated between voxels.
    """
    found = correlations(small, template)
    best = found.flatten(1).argmax(dim=1)
    sizes = found.shape[1:]
    index = torch.stack([best // (sizes[1] * sizes[2]), best // sizes[2] % sizes[1], best % sizes[2]], dim=1)
    return index - torch.tensor([size // 2 for size in sizes], device=index.device) + _between(found, index)


def _between(found: Tensor, index: Tensor) -> Tensor:
    """The top of a parabola through each maximum and its neighbours, per axis, -0.5 to 0.5; 0 at the edge of the reach."""
    rows, parts = torch.arange(len(found), device=found.device), []
    for axis in range(3):
        size = found.shape[axis + 1]
        step = torch.zeros_like(index)
        step[:, axis] = 1
        is_inside = (index[:, axis] > 0) & (index[:, axis] < size - 1)
        low, high = (torch.where(is_inside[:, None], index + sign * step, index) for sign in (-1, 1))
        a, b, c = (found[rows, at[:, 0], at[:, 1], at[:, 2]] for at in (low, index, high))
        bend = (a - 2 * b + c).clamp(max=-1e-9)
        parts.append(torch.where(is_inside, (0.5 * (a - c) / bend).clamp(-0.5, 0.5), torch.zeros_like(b)))
    return torch.stack(parts, dim=1)


def moved(volumes: Tensor, by: Tensor) -> Tensor:
    """Volumes (n, 1, z, y, x) read at places moved `by` (n, 3) voxels along z, y and x; the border is continued."""
    sizes = torch.tensor(volumes.shape[2:], dtype=torch.float32, device=volumes.device)
    theta = torch.zeros((len(volumes), 3, 4), device=volumes.device)
    theta[:, 0, 0] = theta[:, 1, 1] = theta[:, 2, 2] = 1
    theta[:, :, 3] = (2 * by.float() / sizes).flip(1)
    grid = F.affine_grid(theta, list(volumes.shape), align_corners=False)
    return F.grid_sample(volumes.float(), grid, align_corners=False, padding_mode="border")


class Registration(nn.Module):
    """Brings volumes onto a template that `fit` takes from volumes of a cohort; without one they stay as they are."""

    def __init__(self, shape_zyx: Triple) -> None:
        """`shape_zyx` is the shape of the volumes."""
        super().__init__()
        self.shrinkage = shrinkage(shape_zyx)
        self.template: Tensor
        self.register_buffer("template", torch.zeros(shrunk_shape(shape_zyx)))

    @torch.no_grad()
    def fit(self, small: Tensor) -> None:
        """Take the template from `outlines` volumes (n, 1, z, y, x): their mean, again and again after moving, then bending them."""
        self.template.copy_(small.mean(dim=0)[0])
        for _ in range(ROUNDS):
            by = displacements(small, self.template)
            self.template.copy_(moved(small, by - by.mean(dim=0)).mean(dim=0)[0])
        placed = moved(small, displacements(small, self.template))
        for number in range(BENDINGS):
            if number:
                placed = bent(placed, self._bends(placed))
            for _ in range(BENDING_ROUNDS):
                by = self._bends(placed)
                self.template.copy_(bent(placed, by - by.mean(dim=0)).mean(dim=0)[0])

    @torch.no_grad()
    def forward(self, volumes: Tensor) -> Tensor:
        """(n, 1, z, y, x) -> the same volumes, moved and bent."""
        return together([(self, volumes)])[0]

    def _bends(self, small: Tensor) -> Tensor:
        weight = centre_weight(self.template.shape).to(small)
        return torch.cat([bends(some, self.template, weight) for some in small.split(AT_ONCE)])


@torch.no_grad()
def together(pairs: Sequence[tuple[Registration | None, Tensor]]) -> list[Tensor]:
    """What each registration makes of its volumes (n, 1, z, y, x); without one they stay as they are.

    Places on templates of one shape are looked for at once, which is quicker than one after the other.
    """
    found = [volumes for _, volumes in pairs]
    alike: dict[tuple[torch.Size, torch.device], dict[int, tuple[Registration, Tensor]]] = {}
    for number, (registration, volumes) in enumerate(pairs):
        if registration is not None and len(volumes) and registration.template.any():
            of_shape = alike.setdefault((registration.template.shape, volumes.device), {})
            of_shape[number] = registration, volumes
    for (_, device), known in alike.items():
        with torch.autocast(device.type, enabled=False):
            places = _places(list(known.values())).split([len(volumes) for _, volumes in known.values()])
            for (number, (_, volumes)), there in zip(known.items(), places, strict=True):
                found[number] = displaced(volumes, there).to(volumes.dtype)
    return found


def _places(pairs: Sequence[tuple[Registration, Tensor]]) -> Tensor:
    """Where the places of each template lie in its volumes, for `displaced`: (n of all, 3, z, y, x), as templates are shrunk."""
    small = torch.cat([shrunk(volumes) for _, volumes in pairs])
    templates = torch.cat([one.template.expand(len(volumes), -1, -1, -1) for one, volumes in pairs]).to(small)
    cells = [torch.tensor(one.shrinkage) / torch.tensor(volumes.shape[2:]) for one, volumes in pairs]
    axes = torch.cat([size.expand(len(volumes), -1) for size, (_, volumes) in zip(cells, pairs, strict=True)])
    weight, found = centre_weight(templates.shape[1:]).to(small), []
    for some, wanted, by_cell in zip(small.split(AT_ONCE), templates.split(AT_ONCE), axes.split(AT_ONCE), strict=True):
        by = 2 * displacements(outlines(some), wanted) * by_cell.to(some.device)
        places = by[:, :, None, None, None].expand(-1, -1, *some.shape[2:])
        for _ in range(BENDINGS):
            further = bends(outlines(displaced(some, places)), wanted, weight)
            places = composed(places, spread(further, some.shape[2:]))
        found.append(places)
    return torch.cat(found)
