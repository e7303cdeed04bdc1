"""The one training loop: pretraining and both tasks hand it different functions."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from odiff.errors import CheckpointError
from odiff.training.checkpoint import load_weights, read_checkpoint, read_description, save_checkpoint
from odiff.training.optimiser import (
    Rates,
    load_optimiser,
    make_optimiser,
    moving_average,
    optimiser_tensors,
    set_rates,
    update_average,
)
from odiff.training.precision import autocast, place, precision_of
from odiff.training.progress import draw_progress
from odiff.training.run_folder import RunFolder
from odiff.training.stability import LossWatch
from odiff.vocabulary import restart_flags

Batch = Any
Validate = Callable[["TrainingState"], dict[str, float]]
Loss = Callable[[nn.Module, Batch, int], Tensor]


@dataclass(frozen=True)
class LoopSettings:
    """Numbers of the loop; `steps` counts optimiser updates, each of `accumulate` batches.

    The average follows every `ema_every` updates once `ema_after` are made; a `gradient_clip` of 0 clips nothing. `rate_field` is where
    the plan has the learning rate, for messages.
    """

    steps: int
    accumulate: int
    gradient_clip: float
    weight_decay: float
    ema_decay: float
    checkpoint_every: int
    validate_every: int
    device: torch.device
    workers: int
    seed: int
    ema_every: int = 1
    ema_after: int = 0
    second_beta: float = 0.99
    rate_field: str = "learning_rate"


@dataclass
class TrainingState:
    """What changes while training, and is restored when a run resumes.

    `scaler` keeps small gradients above zero where training runs in float16; elsewhere it does nothing.
    """

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    step: int = 0
    best: float | None = None


def start_state(network: nn.Module, groups: dict[str, list[nn.Parameter]], settings: LoopSettings) -> TrainingState:
    """The state before the first step."""
    network = place(network, settings.device)
    is_float16 = precision_of(settings.device).dtype == torch.float16
    scaler = torch.amp.GradScaler(settings.device.type, enabled=is_float16)
    optimiser = make_optimiser(groups, settings.weight_decay, settings.second_beta)
    return TrainingState(network, moving_average(network), optimiser, scaler)


def train(
    state: TrainingState,
    settings: LoopSettings,
    folder: RunFolder,
    batches: Dataset,
    loss: Loss,
    rates: Rates,
    meta: dict[str, Any],
    validate: Validate | None = None,
    title: str = "",
) -> None:
    """Train from `state` (or the latest checkpoint in `folder`) to the last step, and save the final checkpoint.

    Parameters
    ----------
    batches : item n is the n-th batch ever, drawn from n and the seed alone, so that a resumed run meets the same data.
    loss : (network, batch on the device, number of the batch) -> scalar to minimise.
    rates : step -> learning rate of each parameter group.
    meta : saved with every checkpoint.
    validate : called every `validate_every` steps; the value under ``score`` (higher is better) chooses `best`.

    Raises
    ------
    TrainingError
        The loss is no number any more; what was saved before stays.
    CheckpointError
        The run is finished, more steps are wanted, and the checkpoint that they would go on from is gone.
    """
    if _is_finished_alone(folder, settings.steps):
        return
    resume(state, folder)
    if state.step < settings.steps:
        folder.forget_validation()
    losses = LossWatch(title, settings.rate_field, state.scaler.is_enabled())
    folder.path.mkdir(parents=True, exist_ok=True)
    loader = iter(
        DataLoader(
            batches, batch_size=None, sampler=_numbers(state.step, settings), num_workers=settings.workers,
            pin_memory=settings.device.type == "cuda",
        )
    )  # fmt: skip
    with tqdm(total=settings.steps, initial=state.step, desc=title, unit="step", mininterval=1) as bar:
        while state.step < settings.steps:
            started = time.perf_counter()
            value = update(state, settings, loader, loss, rates)
            entry: dict[str, Any] = {"step": state.step, "loss": value, "seconds": time.perf_counter() - started}
            used = rates(state.step - 1)
            losses.see(state.step, value, max(used.values()))
            entry |= {f"rate_{name}": rate for name, rate in used.items()}
            is_last = state.step == settings.steps
            if validate and (is_last or state.step % settings.validate_every == 0):
                entry |= validate(state)
            folder.append_metrics(entry)
            _keep_best(state, folder, entry, meta)
            if is_last or state.step % settings.checkpoint_every == 0:
                save_state(state, folder, meta)
                draw_progress(folder)
            bar.set_postfix(loss=f"{value:.4g}", refresh=False)
            bar.update()
    if not _is_final(folder, state.step):
        save_checkpoint(folder.checkpoint("final"), weights_of(state), {**meta, "step": state.step})


def _is_final(folder: RunFolder, step: int) -> bool:
    """Whether the final checkpoint is there and of that step: others know it by its digest, so it is not written again."""
    path = folder.checkpoint("final")
    return path.exists() and read_description(path).get("step") == step


def _is_finished_alone(folder: RunFolder, steps: int) -> bool:
    """Whether a finished run is without its latest checkpoint, which holds the optimiser and may be deleted to save room."""
    if folder.checkpoint("latest").exists() or not folder.is_trained():
        return False
    done = read_description(folder.checkpoint("final")).get("step")
    if done != steps:
        raise CheckpointError(
            f"{folder.path}: is finished after {done} steps and cannot go on to {steps} without {folder.checkpoint('latest').name}; put it "
            f"back, give the same steps again, or train anew with {restart_flags(folder.path.name)}"
        )
    return True


def update(state: TrainingState, settings: LoopSettings, loader: Any, loss: Loss, rates: Rates) -> float:
    """One optimiser update; the mean loss of its batches. Random layers depend on the seed and the step alone."""
    state.network.train()
    torch.manual_seed(int(np.random.SeedSequence([settings.seed, 6, state.step]).generate_state(1)[0]))
    set_rates(state.optimiser, rates(state.step))
    total = torch.zeros((), device=settings.device)
    for part in range(settings.accumulate):
        batch = to_device(next(loader), settings.device)
        with autocast(settings.device):
            value = loss(state.network, batch, state.step * settings.accumulate + part)
        state.scaler.scale(value / settings.accumulate).backward()
        total += value.detach() / settings.accumulate
    state.scaler.unscale_(state.optimiser)
    if settings.gradient_clip:
        nn.utils.clip_grad_norm_(state.network.parameters(), settings.gradient_clip)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.optimiser.zero_grad(set_to_none=True)
    state.step += 1
    if state.step <= settings.ema_after:
        update_average(state.average, state.network, 0.0, state.step)
    elif state.step % settings.ema_every == 0:
        update_average(state.average, state.network, settings.ema_decay, state.step)
    return float(total)  # waits for a GPU, so not before it was given all its work


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors in dicts and lists to the device, everything else as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def _numbers(step: int, settings: LoopSettings) -> range:
    return range(step * settings.accumulate, settings.steps * settings.accumulate)


def weights_of(state: TrainingState) -> dict[str, Tensor]:
    """The averaged weights, which is what a model is used with."""
    return {f"weights.{name}": tensor for name, tensor in state.average.state_dict().items()}


def save_state(state: TrainingState, folder: RunFolder, meta: dict[str, Any]) -> None:
    """Everything that resuming needs, as ``checkpoint_latest``."""
    tensors = weights_of(state)
    tensors |= {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(state.optimiser).items()}
    progress = {"step": state.step, "best": state.best, "scaler": state.scaler.state_dict()}
    save_checkpoint(folder.checkpoint("latest"), tensors, {**meta, **progress})


def resume(state: TrainingState, folder: RunFolder) -> None:
    """Continue from ``checkpoint_latest`` where there is one; without, from the state as given."""
    path = folder.checkpoint("latest")
    if not path.exists():
        if folder.metrics.exists():
            folder.drop_metrics_after(0)
        return
    checkpoint = read_checkpoint(path)
    load_weights(state.network, checkpoint.part("network."), str(path))
    load_weights(state.average, checkpoint.part("weights."), str(path))
    load_optimiser(state.optimiser, checkpoint.part("optimiser."))
    if stored := checkpoint.meta.get("scaler"):  # nothing where the steps before were not in float16
        state.scaler.load_state_dict(stored)
    state.step, state.best = checkpoint.meta["step"], checkpoint.meta["best"]
    folder.drop_metrics_after(state.step)


def _keep_best(state: TrainingState, folder: RunFolder, entry: dict[str, Any], meta: dict[str, Any]) -> None:
    score = entry.get("score")
    if score is None or not math.isfinite(score) or (state.best is not None and score <= state.best):
        return
    state.best = score
    save_checkpoint(folder.checkpoint("best"), weights_of(state), {**meta, "step": state.step, "score": score})
