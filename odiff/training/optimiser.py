"""Optimiser, learning rates and moving average."""

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

Rates = Callable[[int], dict[str, float]]


def cosine_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, then half a cosine to 1 % of it at the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(1.0, progress)))))
    return peak * (0.01 + 0.99 * cosine)


def constant_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up to `peak`, and `peak` from then on."""
    return peak * min(1.0, (step + 1) / max(1, warmup_steps))


RATE = {"cosine": cosine_rate, "constant": constant_rate}


def make_optimiser(
    groups: Mapping[str, Iterable[nn.Parameter]], weight_decay: float, second_beta: float = 0.99
) -> torch.optim.AdamW:
    """AdamW with one named group per entry; vectors (norms and biases) are not decayed."""
    parameters = []
    for name, members in groups.items():
        members = list(members)
        for suffix, decay, kept in (
            ("matrix", weight_decay, [p for p in members if p.ndim > 1]),
            ("vector", 0.0, [p for p in members if p.ndim <= 1]),
        ):
            if kept:
                parameters.append({"params": kept, "name": name, "part": suffix, "weight_decay": decay, "lr": 0.0})
    return torch.optim.AdamW(parameters, betas=(0.9, second_beta), fused=True)


def set_rates(optimiser: torch.optim.Optimizer, rates: dict[str, float]) -> None:
    """Give each named group its learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rates[group["name"]]


def moving_average(network: nn.Module) -> nn.Module:
    """A copy of `network` that never takes gradients, to be moved by `update_average`."""
    return copy.deepcopy(network).requires_grad_(False).eval()


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average <- d average + (1 - d) network, d = min(decay, (1 + step) / (10 + step)) so that short runs count too.

    Buffers, the running statistics of a batch norm, are averages already and are taken over.
    """
    now = min(decay, (1 + step) / (10 + step))
    own: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(own, list(network.parameters()), 1 - now)
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors, named by parameter number and field."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{field}": torch.as_tensor(value)
        for number, fields in state.items()
        for field, value in fields.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimiser_tensors`.

    Moments take the memory layout of their parameter: the fused kernel walks both by address, so that moments in another
    layout would be applied to other weights.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, field = name.split(".", 1)
        parameter = parameters[int(number)]
        moment = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        state.setdefault(int(number), {})[field] = moment
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
