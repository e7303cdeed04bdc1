"""Pretraining: one diffusion model per view, learnt from every image and no label."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from odiff.data.batches import BatchSource, PretrainBatches
from odiff.data.index import PreparedDataset
from odiff.diffusion import ALPHA_BAR, Corruption, add_noise, denoising_loss, draw_corruption
from odiff.errors import DatasetError
from odiff.learning.diagnosis_data import items_of
from odiff.learning.probes import logged_probe
from odiff.learning.run import RunSettings, describe_run, open_run
from odiff.learning.samples import draw_rows, generate
from odiff.learning.subsets import knows_diagnosis
from odiff.network.backbone import Backbone, build_diffusion
from odiff.plan import Plan, ViewPlan
from odiff.training.graphs import record
from odiff.training.loop import LoopSettings, TrainingState, Validate, start_state, train
from odiff.training.optimiser import RATE
from odiff.training.precision import autocast
from odiff.training.run_folder import RunFolder

WATCHED = 4


@dataclass(frozen=True)
class Objective:
    """The denoising loss, with the random numbers of each batch drawn from the seed and its number."""

    plan: ViewPlan
    alpha_bar: Tensor
    seed: int

    def draw(self, shape: torch.Size, number: int) -> Corruption:
        """Time steps, noise and masks of one batch, on the device of `alpha_bar`; a GPU draws others than a CPU."""
        state = np.random.SeedSequence([self.seed, 2, number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator(self.alpha_bar.device).manual_seed(int(state >> np.uint64(1)))
        return draw_corruption(shape, self.plan.diffusion, generator)

    def loss(self, network: nn.Module, batch: Tensor, number: int) -> Tensor:
        """The loss of a batch (b, 1, z, y, x)."""
        corruption = self.draw(batch.shape, number)
        return denoising_loss(network, batch, corruption, self.alpha_bar, self.plan.diffusion)[0]


def pretrain(
    prepared: Path, dataset: PreparedDataset, plan: Plan, view: str, folder: Path, settings: RunSettings
) -> RunFolder:
    """Train the diffusion model of `view`, or go on with an interrupted training.

    Parameters
    ----------
    prepared : folder of the preprocessed series of this view.
    folder : where the run's files go.

    Raises
    ------
    DatasetError
        There is no image of the view.
    CheckpointError
        The folder holds a run of another plan or seed.
    """
    names = [series.name for case in dataset.cases for series in case.of_view(view)]
    if not names:
        raise DatasetError(
            f"{dataset.name}: no {view} images in imagesTr to pretrain on; add some, or train another view"
        )
    view_plan, recipe = plan.views[view], plan.pretrain
    torch.manual_seed(settings.seed)
    network = build_diffusion(view_plan.network)
    loop = LoopSettings(
        steps=recipe.steps, accumulate=view_plan.accumulate, gradient_clip=recipe.gradient_clip,
        weight_decay=recipe.weight_decay, ema_decay=recipe.ema_decay, checkpoint_every=recipe.checkpoint_every,
        validate_every=recipe.checkpoint_every, device=settings.device, workers=settings.workers, seed=settings.seed,
        ema_every=recipe.ema_every, ema_after=recipe.ema_after, second_beta=recipe.second_beta,
        rate_field="pretrain.learning_rate",
    )  # fmt: skip
    meta = describe_run(plan, view, "pretrain", None, settings) | {"series": len(names)}
    run = open_run(folder, meta, settings)
    state = start_state(network, {"backbone": list(network.parameters())}, loop)
    record(state.network, (view_plan.batch_size, 1, *view_plan.patch_zyx), settings.device, view_plan.accumulate)
    source = BatchSource(prepared, view_plan, recipe.augmentation, (), view_plan.batch_size, settings.seed)
    alpha_bar = ALPHA_BAR[view_plan.diffusion.schedule](view_plan.diffusion.time_steps).float().to(settings.device)
    objective = Objective(view_plan, alpha_bar, settings.seed)
    batches = PretrainBatches(source, names)
    watched = torch.cat([batches[number] for number in range(-(-WATCHED // view_plan.batch_size))])[:WATCHED]
    watch = _watcher(objective, watched.to(settings.device), run)
    if recipe.probe_every:
        watch = _with_probe(watch, dataset, prepared, plan, view)

    def rates(step: int) -> dict[str, float]:
        return {"backbone": RATE[recipe.rate](step, recipe.steps, recipe.warmup_steps, recipe.learning_rate)}

    train(state, loop, run, batches, objective.loss, rates, meta, watch, f"{view} pretrain")
    return run


def _watcher(objective: Objective, batch: Tensor, run: RunFolder) -> Validate:
    """The loss of the averaged model on fixed volumes under fixed noise, and samples.png; needs no label."""
    corruption = objective.draw(batch.shape, -1 % 2**32)
    alpha_bar_t = objective.alpha_bar[corruption.t]

    @torch.no_grad()
    def watch(state: TrainingState) -> dict[str, float]:
        with autocast(batch.device):
            loss, denoised = denoising_loss(
                state.average, batch, corruption, objective.alpha_bar, objective.plan.diffusion
            )
            generated = generate(state.average, objective.plan, objective.alpha_bar, 2, objective.seed)
        noisy = torch.where(corruption.hidden, torch.zeros_like(batch), add_noise(batch, corruption.noise, alpha_bar_t))
        rows = {"image": batch, "noisy and masked": noisy, "denoised": denoised, "generated": generated}
        draw_rows(run.path / "samples.png", rows)
        return {"score": -float(loss), "watched_loss": float(loss)}

    return watch


def _with_probe(watch: Validate, dataset: PreparedDataset, prepared: Path, plan: Plan, view: str) -> Validate:
    """Also log ``probe_auroc`` where `probe_every` divides the step and labels exist.

    The probe sees every labelled case, so it may be looked at but choose nothing: ``best`` stays with the watched loss.
    """
    labelled = [case for case in dataset.cases if knows_diagnosis(case)]
    cases = [case for case in labelled if case.of_view(view)][: plan.diagnosis.probe_cases]
    items, patients = items_of(cases, view, plan.diagnoses), [case.patient for case in cases]

    def watch_and_probe(state: TrainingState) -> dict[str, float]:
        found = watch(state)
        if state.step % plan.pretrain.probe_every == 0 and isinstance(state.average, Backbone):
            device = next(state.average.parameters()).device
            score = logged_probe(state.average, prepared, items, patients, plan.views[view], device)
            if score is not None:
                found["probe_auroc"] = score
        return found

    return watch_and_probe
