"""A pretrained diffusion model as a source of features, for use from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from odiff.errors import CheckpointError, UsageError
from odiff.learning.loading import trained_network
from odiff.learning.run import plan_of_view
from odiff.network.backbone import DiffusionNetwork, block_names, build_diffusion
from odiff.plan import ViewPlan
from odiff.plan.parse import closest
from odiff.training.checkpoint import read_checkpoint
from odiff.training.precision import exact_float32
from odiff.training.run_folder import RunFolder

FINAL = "final"


@dataclass(frozen=True)
class PretrainedModel:
    """The averaged network of a pretraining, and the plan of the view it was trained on."""

    network: DiffusionNetwork
    plan: ViewPlan

    @property
    def blocks(self) -> tuple[str, ...]:
        """What `features` can give, in the order of computation; ``final`` is the network's answer."""
        return (*block_names(self.plan.network), FINAL)

    @torch.no_grad()
    def features(
        self, x_t: Tensor, t: int | Tensor, blocks: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """Activations of a noised volume.

        Parameters
        ----------
        x_t : (b, 1, z, y, x), each axis a multiple of the network's total stride; see `odiff.diffusion.add_noise`.
        t : time step, one for all or (b,).
        blocks : names of `blocks`; all by default. Nothing beyond the last of them is computed.
        dtype : to compute in; float32 gives the same values everywhere.

        Returns
        -------
        name -> (b, channels, z', y', x'), on the CPU or GPU that the model is on.

        Raises
        ------
        UsageError
            There is no such block.
        """
        wanted = tuple(blocks) if blocks is not None else self.blocks
        unknown = [name for name in wanted if name not in self.blocks]
        if unknown:
            raise UsageError(f"block {unknown[0]!r}: not one of the network's{closest(unknown[0], self.blocks)}")
        weight = next(self.network.parameters())
        x_t = x_t.to(weight.device, torch.float32)
        steps = torch.as_tensor(t, device=weight.device).expand(len(x_t))
        is_exact = dtype == torch.float32
        with exact_float32() if is_exact else torch.autocast(weight.device.type, dtype):
            if FINAL in wanted:
                found = self.network.features(x_t, steps)
                last = next(reversed(found.values()))
                found[FINAL] = self.network.answer(last)
            else:
                found = self.network.features(x_t, steps, max(wanted, key=self.blocks.index))
        return {name: found[name] for name in wanted}


def load_pretrained(folder: str | Path, device: str | torch.device = "cpu") -> PretrainedModel:
    """The model of a ``pretrain`` folder: of odiff_train's results, or what odiff_import_weights wrote.

    Parameters
    ----------
    folder : holds ``checkpoint_final.safetensors``; or that file itself.

    Raises
    ------
    CheckpointError
        There is no such model, or it is not a pretrained one.
    """
    given = Path(folder)
    checkpoint = read_checkpoint(given if given.is_file() else RunFolder(given).checkpoint("final"))
    if checkpoint.meta.get("task") != "pretrain":
        raise CheckpointError(f"{checkpoint.path}: is a {checkpoint.meta.get('task')} model, not a pretrained one")
    plan = plan_of_view(checkpoint.meta, checkpoint.meta["view"])
    network = trained_network(lambda: build_diffusion(plan.network), checkpoint, torch.device(device))
    return PretrainedModel(network, plan)
