"""The few layers that the networks are made of; volumes are (b, c, z, y, x)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.convolution import convolved, convolved_with_gradients, is_for_loops
from odiff.network.fused import computed_in, norm_silu_conv
from odiff.network.weight_gradient import is_mishandled, padding_of
from odiff.plan.schema import Triple

SLOW_BELOW = 20480


def space_to_depth(x: Tensor, block_zyx: Triple) -> Tensor:
    """(b, c, z, y, x) -> (b, c * block, z / bz, y / by, x / bx); the inverse of `depth_to_space`."""
    bz, by, bx = block_zyx
    b, c, z, y, w = x.shape
    x = x.reshape(b, c, z // bz, bz, y // by, by, w // bx, bx)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * bz * by * bx, z // bz, y // by, w // bx)


def depth_to_space(x: Tensor, block_zyx: Triple) -> Tensor:
    """(b, c * block, z, y, x) -> (b, c, z * bz, y * by, x * bx)."""
    bz, by, bx = block_zyx
    b, c, z, y, w = x.shape
    x = x.reshape(b, c // (bz * by * bx), bz, by, bx, z, y, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, -1, z * bz, y * by, w * bx)


def time_embedding(t: Tensor, channels: int, longest: float = 10_000.0) -> Tensor:
    """Cosines and sines of t at `channels` / 2 frequencies, 1 to 1 / `longest` (Vaswani et al. 2017); (b,) -> (b, channels)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(longest) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Convolution(nn.Conv3d):
    """A `Conv3d` that always takes oneDNN where it is there, but for what `odiff.network.convolution` does itself.

    For one float32 volume with few voxels times channels, torch takes another implementation, two to three times slower.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = computed_in(x)
        with_gradients = torch.is_grad_enabled()
        if is_for_loops(x, dtype, self) or (with_gradients and is_mishandled(x, dtype, self)):
            inputs = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            return (convolved_with_gradients if with_gradients else convolved)(*inputs, self)
        if _takes_slow_path(x):
            return torch.mkldnn_convolution(x, weight, bias, padding_of(self), self.stride, self.dilation, self.groups)
        return F.conv3d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def _takes_slow_path(x: Tensor) -> bool:
    is_plain = x.device.type == "cpu" and computed_in(x) == torch.float32
    is_small = len(x) == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= SLOW_BELOW
    return is_plain and is_small and x.is_contiguous() and torch.backends.mkldnn.is_available()


class Transposed(nn.ConvTranspose3d):
    """A `ConvTranspose3d`, which is one product a voxel where kernel and stride are the same and oneDNN would get its gradient wrong."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(b, inputs, z, y, x) -> (b, outputs, z * sz, y * sy, x * sx)."""
        block = (self.stride[0], self.stride[1], self.stride[2])
        is_plain = tuple(self.kernel_size) == block and not any((*map(int, self.padding), *self.output_padding))
        if not (is_plain and torch.is_grad_enabled() and is_mishandled(input, computed_in(input), self)):
            return super().forward(input, output_size)
        bias = None if self.bias is None else self.bias.repeat_interleave(math.prod(block))
        each = F.linear(input.permute(0, 2, 3, 4, 1), self.weight.flatten(1).t(), bias)
        return depth_to_space(each.permute(0, 4, 1, 2, 3), block)


def convolution(inputs: int, outputs: int, kernel_zyx: Triple, stride_zyx: Triple = (1, 1, 1)) -> Convolution:
    """A convolution that keeps the size (divided by the stride); kernels are odd."""
    depth, rows, columns = (k // 2 for k in kernel_zyx)
    return Convolution(inputs, outputs, kernel_zyx, stride=stride_zyx, padding=(depth, rows, columns))


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with eight channels a group, as far as that divides."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)


class NormSiluConv(nn.Module):
    """norm, SiLU, convolution."""

    def __init__(self, inputs: int, outputs: int, kernel_zyx: Triple) -> None:
        super().__init__()
        self.norm, self.conv = norm(inputs), convolution(inputs, outputs, kernel_zyx)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, z, y, x) -> (b, outputs, z, y, x)."""
        return norm_silu_conv(x, self.norm, self.conv)


class FilmSiluConv(nn.Module):
    """norm, SiLU, convolution; the time step scales and shifts the norm (FiLM, Perez et al. 2018), at first not at all."""

    def __init__(self, channels: int, kernel_zyx: Triple, time_channels: int) -> None:
        super().__init__()
        self.norm, self.conv = norm(channels), convolution(channels, channels, kernel_zyx)
        self.film = nn.Linear(time_channels, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(b, channels, z, y, x) and (b, time_channels) -> (b, channels, z, y, x)."""
        scale, shift = self.film(time).chunk(2, dim=1)
        return norm_silu_conv(x, self.norm, self.conv, scale, shift)


class ResidualBlock(nn.Module):
    """x + norm, SiLU, convolution, twice, the second under the time step; at first x alone."""

    def __init__(self, channels: int, kernel_zyx: Triple, time_channels: int) -> None:
        super().__init__()
        self.first = NormSiluConv(channels, channels, kernel_zyx)
        self.second = FilmSiluConv(channels, kernel_zyx, time_channels)
        nn.init.zeros_(self.second.conv.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(b, channels, z, y, x) and (b, time_channels) -> (b, channels, z, y, x)."""
        return x + self.second(self.first(x), time)


class Upsample(nn.Module):
    """Nearest neighbour by the stride, then a convolution."""

    def __init__(self, inputs: int, outputs: int, stride_zyx: Triple, kernel_zyx: Triple) -> None:
        super().__init__()
        self.stride_zyx = stride_zyx
        self.conv = convolution(inputs, outputs, kernel_zyx)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, z, y, x) -> (b, outputs, z * sz, y * sy, x * sx)."""
        return F.interpolate(self.conv(x), scale_factor=[float(s) for s in self.stride_zyx], mode="nearest")
