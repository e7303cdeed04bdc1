"""OrthoDiffusion's own network (arXiv 2602.20752): a U-Net in guided-diffusion form, tensor names as in its released weights.

One residual block a level, strided 3x3x3 convolutions that halve all three axes, linear upsampling, attention with one head at
the coarsest level, 34.5 M parameters. Two things that its description leaves open were found from activations of a released
network: periods of the time embedding end at 1000, not 10000, and upsampling is trilinear, not nearest (tests/network/reference).
"""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odiff.network.blocks import Block
from odiff.network.fused import norm_silu_conv
from odiff.network.layers import Convolution, convolution, time_embedding
from odiff.plan.schema import NetworkPlan

GROUPS = 32
CUBE = (3, 3, 3)
LONGEST_PERIOD = 1000.0
PAPER = NetworkPlan(
    stem_zyx=(1, 1, 1), channels=(64, 64, 128, 128, 256), strides_zyx=((1, 1, 1), *[(2, 2, 2)] * 4), kernels_zyx=(CUBE,) * 5,
    blocks_per_stage=1, time_channels=64, architecture="paper",
)  # fmt: skip


def paper_blocks(plan: NetworkPlan) -> dict[str, Block]:
    """``in_0`` .. , ``mid_0`` .. ``mid_2``, ``out_0`` .. , as the released code numbers them: two a level down, two up."""
    widths, last = plan.channels, len(plan.channels) - 1
    grids = [(widths[0], 0)]
    for level, width in enumerate(widths):
        grids += [(width, level), (width, level + 1)] if level < last else [(width, level)]
    found = {f"in_{n}": Block(*grid, (f"input_blocks.{n}.",)) for n, grid in enumerate(grids)}
    found |= {f"mid_{n}": Block(widths[-1], last, (f"middle_block.{n}.",)) for n in range(3)}
    ups = [grid for n in reversed(range(last + 1)) for grid in ((widths[n], n), (widths[n], max(0, n - 1)))]
    return found | {f"out_{n}": Block(*grid, (f"output_blocks.{n}.",)) for n, grid in enumerate(ups)}


class PaperUNet(nn.Module):
    """Maps a noisy volume and its time step to the noise in it; `PAPER` is the released size, `plan.channels` may differ."""

    def __init__(self, plan: NetworkPlan = PAPER) -> None:
        super().__init__()
        self.plan = plan
        base, widths, last = plan.channels[0], plan.channels, len(plan.channels) - 1
        embedded = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        self.input_blocks = nn.ModuleList([nn.ModuleList([convolution(1, base, CUBE)])])
        kept, now = [base], base
        for level, width in enumerate(widths):
            self.input_blocks.append(_level(now, width, embedded, has_attention=level == last))
            now = width
            kept.append(now)
            if level < last:
                self.input_blocks.append(nn.ModuleList([_Down(now)]))
                kept.append(now)
        self.middle_block = nn.ModuleList(
            [_Residual(now, now, embedded), _Attention(now), _Residual(now, now, embedded)]
        )
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for is_second in (False, True):
                block = _level(now + kept.pop(), width, embedded, has_attention=level == last)
                now = width
                if is_second and level:
                    block.append(_Up(now))
                self.output_blocks.append(block)
        self.out = _Step(nn.GroupNorm(GROUPS, now), nn.SiLU(), convolution(now, 1, CUBE))

    def features(self, x: Tensor, t: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Activations after each block, in the order they are computed.

        Parameters
        ----------
        x : (b, 1, z, y, x), each axis a multiple of 16.
        t : (b,), time steps.
        last : the block to stop after; all of them by default.

        Returns
        -------
        Names of `paper_blocks` -> (b, channels, z', y', x').
        """
        found: dict[str, Tensor] = {}
        for name, h in self._blocks(x, t):
            found[name] = h
            if name == last:
                break
        return found

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(b, 1, z, y, x) and (b,) -> (b, 1, z, y, x), the predicted noise."""
        for _, h in self._blocks(x, t):
            last = h
        return self.answer(last)

    def answer(self, h: Tensor) -> Tensor:
        """The last block's features -> (b, 1, z, y, x)."""
        return self.out(h)

    def _blocks(self, x: Tensor, t: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each block's name and activation as it is computed; holds only what later blocks need."""
        time = F.silu(self.time_embed(time_embedding(t, self.plan.channels[0], LONGEST_PERIOD)))
        skips, h = [], x
        for number, block in enumerate(self.input_blocks):
            h = _run(cast(nn.ModuleList, block), h, time)
            skips.append(h)
            yield f"in_{number}", h
        for number, layer in enumerate(self.middle_block):
            h = _run([layer], h, time)
            yield f"mid_{number}", h
        for number, block in enumerate(self.output_blocks):
            h = _run(cast(nn.ModuleList, block), torch.cat([h, skips.pop()], dim=1), time)
            yield f"out_{number}", h


def _level(inputs: int, outputs: int, embedded: int, has_attention: bool) -> nn.ModuleList:
    layers: list[nn.Module] = [_Residual(inputs, outputs, embedded)]
    return nn.ModuleList([*layers, _Attention(outputs)] if has_attention else layers)


def _run(layers: Iterable[nn.Module], h: Tensor, time: Tensor) -> Tensor:
    for layer in layers:
        h = layer(h, time) if isinstance(layer, _Residual) else layer(h)
    return h


class _Step(nn.Sequential):
    """norm first, SiLU, convolution last; numbered as in the released weights, dropout's place included."""

    def forward(self, x: Tensor) -> Tensor:
        return norm_silu_conv(x, cast(nn.GroupNorm, self[0]), cast(nn.Conv3d, self[-1]))


class _Residual(nn.Module):
    """norm, SiLU, convolution, plus the time, and once more."""

    def __init__(self, inputs: int, outputs: int, embedded: int) -> None:
        super().__init__()
        self.in_layers = _Step(nn.GroupNorm(GROUPS, inputs), nn.SiLU(), convolution(inputs, outputs, CUBE))
        self.emb_layers = nn.Sequential(nn.Identity(), nn.Linear(embedded, outputs))
        self.out_layers = _Step(
            nn.GroupNorm(GROUPS, outputs), nn.SiLU(), nn.Identity(), convolution(outputs, outputs, CUBE)
        )
        self.skip_connection = Convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x)
        h = h + self.emb_layers(time).to(h.dtype)[:, :, None, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class _Attention(nn.Module):
    """Every position attends to all positions, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        query, key, value = _at_each(self.qkv, self.norm(flat).transpose(1, 2)).chunk(3, dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return (flat + _at_each(self.proj_out, mixed).transpose(1, 2)).reshape(x.shape)


def _at_each(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of one tap as the product that it is, (b, n, inputs) -> (b, n, outputs).

    The gradient of its weight is among those that oneDNN gets wrong (`odiff.network.weight_gradient`).
    """
    return F.linear(x, conv.weight[:, :, 0], conv.bias)


class _Down(nn.Module):
    """Half the size along each axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = convolution(channels, channels, CUBE, (2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class _Up(nn.Module):
    """Twice the size along each axis, linearly, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, CUBE)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="trilinear"))
