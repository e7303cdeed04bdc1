"""Row f: augmented segmentation batches, one worker and one thread, against nnU-Net's own loader and transforms.

Both read the same phantom knees, each as its own preprocessing stored them, at the patch and batch size of odiff's default plan,
and change them by the same kinds of transform with the same probabilities and ranges (`TRANSFORMS`).
"""

import itertools
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch

from odiff.data.batches import BatchSource, SegmentationBatches
from odiff.data.index import read_index
from odiff.experiment_planning.pipeline import PlanningOptions, plan_and_preprocess
from odiff.learning.segmentation import build_segmentation, class_values, loss_of, parameter_groups
from odiff.phantom import write_phantom_dataset
from odiff.plan import Plan, read_plan
from odiff.training.device import use_cores
from odiff.training.loop import LoopSettings, start_state, update
from speed_rows import nnunet_loader
from speed_rows.measure import Side, Worker, alternate, make_row, serve

VIEW, DATASET = "sagittal", "Dataset001_Knee"
CASES, BATCHES = 6, 8
# What each side draws per sample; p is `augmentation.probability` of the plan, the other names are its fields.
TRANSFORMS = {
    "foreground": "a share `foreground_fraction` of the patches is centred on a voxel of a random structure",
    "rotation": "p 1, in plane, uniform within rotation_deg",
    "scale": "p 1, in plane, log-uniform within scale",
    "shift": "p 1, in plane, uniform within shift of the patch",
    "interpolation": "image linear; mask the label with the largest share of a linear interpolation, as nnU-Net has it",
    "brightness": "p, additive, normal of that deviation",
    "contrast": "p, about the mean, range kept",
    "gamma": "p, mean and deviation kept",
    "blur": "p, Gaussian along all axes, sigma 0.2 to blur_voxels",
    "noise": "p, normal, deviation uniform up to noise",
    "mirror": "none",
}


def run(names: Sequence[str], work: Path, repeats: int) -> list[dict[str, Any]]:
    """The row; `work` is filled on the first call."""
    folder = work / "loading"
    prepare(folder)
    with Worker("loading", "ours", str(folder)) as ours, Worker("loading", "bilinear", str(folder)) as peer:
        sides = alternate(ours, peer, repeats=repeats)
    with Worker("loading", "nearest", str(folder)) as nearest, Worker("loading", "full", str(folder)) as full:
        others = alternate(nearest, full, repeats=max(1, repeats // 2))
    with Worker("loading", "step", str(folder)) as training:
        per_step = round(min(training().seconds for _ in range(2)), 4)
    per_batch = seconds_each(sides[0], BATCHES)
    row = make_row(
        names[0], f"augmented batch {ours.info['batch']}, one worker", *sides, items=BATCHES,
        transforms=TRANSFORMS, augmentation=ours.info["augmentation"],
        training_step_seconds=per_step, training_threads=training.info["threads"], keeps_up=per_batch <= per_step,
        peer_with_nearest_masks=seconds_each(others[0], BATCHES), peer_with_all_its_augmentation=seconds_each(others[1], BATCHES),
    )  # fmt: skip
    return [row]


def seconds_each(side: Side, items: int) -> float:
    """Median seconds of one of the pieces that each sample holds."""
    return round(float(np.median(side.seconds)) / items, 4)


def prepare(folder: Path) -> None:
    """Phantom knees, preprocessed by both."""
    raw = folder / "raw" / DATASET
    if not (raw / "dataset.json").exists():
        shutil.rmtree(raw, ignore_errors=True)
        write_phantom_dataset(raw, joint="knee", cases=CASES, seed=0, size="standard", processes=2)
    options = PlanningOptions(preset="default", views=(VIEW,))
    plan_and_preprocess(folder / "raw", folder / "preprocessed", "1", options, lambda _: None)
    if not (folder / "nnunet" / "done").exists():
        shutil.rmtree(folder / "nnunet", ignore_errors=True)
        nnunet_loader.preprocess(folder / "nnunet", raw, the_plan(folder).views[VIEW])


def the_plan(folder: Path) -> Plan:
    """odiff's default plan."""
    return read_plan(folder / "preprocessed" / DATASET / "plans.json")


def our_batches(folder: Path) -> SegmentationBatches:
    """odiff's training batches."""
    plan, preprocessed = the_plan(folder), folder / "preprocessed" / DATASET
    view, recipe = plan.views[VIEW], plan.segmentation
    names = [series.name for case in read_index(preprocessed).cases for series in case.of_view(VIEW)]
    source = BatchSource(preprocessed / f"{plan.name}_{VIEW}", view, recipe.augmentation, (), view.batch_size, 0)
    return SegmentationBatches(source, names, class_values(plan), recipe.foreground_fraction)


def prepare_ours(folder: Path) -> tuple[dict[str, Any], Callable[[], object]]:
    """Pull batches on one thread."""
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    batches, numbers = our_batches(folder), itertools.count()
    info = {
        "batch": "x".join(map(str, batches[0][0].shape)),
        "augmentation": vars(the_plan(folder).segmentation.augmentation),
    }
    return info, lambda: [batches[next(numbers)] for _ in range(BATCHES)]


def prepare_step(folder: Path) -> tuple[dict[str, Any], Callable[[], object]]:
    """Training steps of the default plan on one batch that is already loaded, with the threads that training takes."""
    threads = use_cores()
    plan = the_plan(folder)
    recipe, batch = plan.segmentation, our_batches(folder)[0]
    network = build_segmentation(plan, VIEW)
    settings = LoopSettings(
        steps=10**6, accumulate=1, gradient_clip=recipe.gradient_clip, weight_decay=recipe.weight_decay,
        ema_decay=recipe.ema_decay, checkpoint_every=10**6, validate_every=10**6, device=torch.device("cpu"), workers=0, seed=0,
    )  # fmt: skip
    state = start_state(network, parameter_groups(network), settings)

    def loss(network: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
        image, classes = batch
        logits = network(image, torch.full((len(image),), recipe.time_step))
        return loss_of(logits, classes, recipe)

    def rates(step: int) -> dict[str, float]:
        return {"backbone": recipe.learning_rate, "head": recipe.learning_rate}

    loader = itertools.repeat(batch)
    return {"threads": threads}, lambda: update(state, settings, loader, loss, rates)


def prepare_peer(folder: Path, kind: str) -> tuple[dict[str, Any], Callable[[], object]]:
    """Pull nnU-Net's batches on one thread."""
    torch.set_num_threads(1)
    plan = the_plan(folder)
    recipe = plan.segmentation
    loader = nnunet_loader.batches(
        folder / "nnunet", plan.views[VIEW], recipe.augmentation, recipe.foreground_fraction, kind
    )
    batch = next(loader)
    return {"batch": "x".join(map(str, batch["data"].shape))}, lambda: [next(loader) for _ in range(BATCHES)]


def main() -> None:
    """One worker: ``python -m speed_rows.loading ours|step|nearest|bilinear|full FOLDER``."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    ours = {"ours": prepare_ours, "step": prepare_step}
    serve(lambda: ours[kind](folder) if kind in ours else prepare_peer(folder, kind))


if __name__ == "__main__":
    main()
