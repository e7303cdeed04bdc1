"""The diffusion network: a residual 3D U-Net on a space-to-depth stem, conditioned on the time step."""

from torch import Tensor, nn

from odiff.network.blocks import Block
from odiff.network.layers import (
    FilmSiluConv,
    NormSiluConv,
    ResidualBlock,
    Upsample,
    convolution,
    depth_to_space,
    space_to_depth,
    time_embedding,
)
from odiff.plan.schema import NetworkPlan, Triple


def unet_blocks(plan: NetworkPlan) -> dict[str, Block]:
    """From the stem down to `mid` and up again."""
    widths, last = plan.channels, len(plan.channels) - 1
    down = {f"encoder_{n}": Block(width, n, (f"down.{n}.", f"encoder.{n}.")) for n, width in enumerate(widths)}
    up = {f"decoder_{n}": Block(widths[n], n, (f"up.{n}.", f"decoder.{n}.")) for n in reversed(range(last))}
    return {**down, "mid": Block(widths[-1], last, ("mid.",)), **up}


class Stage(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(self, channels: int, blocks: int, kernel_zyx: Triple, time_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel_zyx, time_channels) for _ in range(blocks))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(b, channels, z, y, x) -> (b, channels, z, y, x)."""
        for block in self.blocks:
            x = block(x, time)
        return x


class UNet(nn.Module):
    """Maps a noisy volume and its time step to a volume; its inner activations are odiff's features.

    The decoder is the lighter half: skips are added and one convolution follows (docs/decisions.md).
    """

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.plan = plan
        widths, strides, kernels = plan.channels, plan.strides_zyx, plan.kernels_zyx
        pixels = plan.stem_zyx[0] * plan.stem_zyx[1] * plan.stem_zyx[2]
        time = plan.time_channels
        self.time = nn.Sequential(nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.stem = convolution(pixels, widths[0], kernels[0])
        self.down = nn.ModuleList(
            convolution(widths[i - 1], widths[i], kernels[i], strides[i]) if i else nn.Identity()
            for i in range(len(widths))
        )
        self.encoder = nn.ModuleList(
            Stage(widths[i], plan.blocks_per_stage, kernels[i], time) for i in range(len(widths))
        )
        self.mid = ResidualBlock(widths[-1], kernels[-1], time)
        self.up = nn.ModuleList(
            Upsample(widths[i + 1], widths[i], strides[i + 1], kernels[i]) for i in range(len(widths) - 1)
        )
        self.decoder = nn.ModuleList(FilmSiluConv(widths[i], kernels[i], time) for i in range(len(widths) - 1))
        self.out = NormSiluConv(widths[0], pixels, kernels[0])

    def features(self, x: Tensor, t: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Activations after each block.

        Parameters
        ----------
        x : (b, 1, z, y, x), a multiple of the plan's total stride along each axis.
        t : (b,), time steps; 0 is the least noise.
        last : the block to stop after; all of them by default.

        Returns
        -------
        Names of `unet_blocks` -> (b, channels, z', y', x'), in the order they were computed.
        """
        time = self.time(time_embedding(t, self.plan.time_channels))
        h = self.stem(space_to_depth(x, self.plan.stem_zyx))
        found: dict[str, Tensor] = {}
        for index, (down, stage) in enumerate(zip(self.down, self.encoder, strict=True)):
            h = found[f"encoder_{index}"] = stage(down(h), time)
            if last == f"encoder_{index}":
                return found
        h = found["mid"] = self.mid(h, time)
        for index in reversed(range(len(self.decoder))):
            if last == next(reversed(found)):
                return found
            joined = self.up[index](h) + found[f"encoder_{index}"]
            h = found[f"decoder_{index}"] = joined + self.decoder[index](joined, time)
        return found

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(b, 1, z, y, x) and (b,) -> (b, 1, z, y, x), the prediction that the diffusion plan names."""
        return self.answer(next(reversed(self.features(x, t).values())))

    def answer(self, h: Tensor) -> Tensor:
        """The last block's features (b, channels, z', y', x') -> (b, 1, z, y, x)."""
        return depth_to_space(self.out(h), self.plan.stem_zyx)
