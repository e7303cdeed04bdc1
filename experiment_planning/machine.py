"""What the planner is told of the computer it runs on."""

import psutil
import torch

from odiff.experiment_planning.planner import Machine
from odiff.training.device import choose_device
from odiff.training.precision import precision_of

SHARE_OF_RAM = 0.6
SHARE_OF_GPU = 0.85


def this_machine(memory_gb: float | None = None, device: str = "auto") -> Machine:
    """This computer, with `memory_gb` in place of what is free of its memory."""
    chosen = choose_device(device)
    if memory_gb is None:
        if chosen.type == "cuda":
            memory_gb = SHARE_OF_GPU * torch.cuda.mem_get_info(chosen)[0] / 2**30
        else:
            memory_gb = SHARE_OF_RAM * psutil.virtual_memory().available / 2**30
    precision = precision_of(chosen)
    return Machine(memory_gb, precision.value_bytes, chosen.type, f"{precision.name}: {precision.reason}")
