"""nnU-Net v2 on the patients that an arm of odiff learns from, for as long as that arm took.

Its plan, network, augmentation, loss and schedule are its own; its epochs are ten steps long and so many that the schedule ends with the
time. Slices are brought into one order, from lateral to medial, as odiff does, which nnU-Net cannot do by itself.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from speed_rows.measure import run_command
from speed_rows.segmentation import CONFIGURATION, NNUNET, nnunet_environment, program

from claim_parts.cohorts import COHORTS
from claim_parts.training import FOLD, Job, like_of, prepare
from odiff.experiment_planning.nnunet.layout import CHANNEL
from odiff.geometry import Volume, read_mask, read_volume, write_volume
from odiff.learning.context import open_context
from odiff.learning.fold_cases import training_cases
from odiff.storage import write_json

STEPS_PER_EPOCH = 10
ENDING = ".nii.gz"


def fine_tune(folder: Path, root: Path, job: Job, view: str, rate: float, seconds: float) -> float:
    """Train on the job's patients for about `seconds`, at `rate` times nnU-Net's own learning rate; how long it took.

    `root` keeps nnU-Net's three folders. What is trained already is kept.
    """
    done = root / "seconds.json"
    if done.exists():
        return float(json.loads(done.read_text()))
    use_folders(root)
    write_series(folder, root, job, view)
    run_command([program("nnUNetv2_plan_and_preprocess"), "-d", "1", "-c", CONFIGURATION, "-np", "2"], dict(os.environ))
    per_epoch = train(root, rate, 1, job.seed)
    taken = train(root, rate, max(2, round(seconds / per_epoch)), job.seed)
    write_json(done, taken)
    return taken


def use_folders(root: Path) -> None:
    """Point nnU-Net at folders below `root`; since 2.8 it reads them when it uses them."""
    os.environ.update(nnunet_environment(root) | {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"})


def write_series(folder: Path, root: Path, job: Job, view: str) -> None:
    """The masked series of the training patients that the job's arm of odiff has, and of the validation patients, as its fold 0."""
    dataset = COHORTS[job.cohort].dataset
    prepared = prepare(folder, job.cohort, job.recipe, like_of(job))
    context = open_context(prepared, folder / "unused", dataset)
    sides = {
        "train": training_cases(context, FOLD, job.fraction, job.seed), "val": context.cases_of_fold(FOLD, "val"),
    }  # fmt: skip
    raw, target = folder / "raw" / dataset, root / "nnunet_raw" / NNUNET
    fold: dict[str, list[str]] = {}
    for side, cases in sides.items():
        masked = [(case, one.name) for case in cases for one in case.of_view(view) if one.is_masked]
        fold[side] = [name for _, name in masked]
        for case, name in masked:
            image, mask = (
                read_volume(raw / "imagesTr" / f"{name}{ENDING}"),
                read_mask(raw / "labelsTr" / f"{name}{ENDING}"),
            )
            for volume, path in ((image, f"imagesTr/{name}_{CHANNEL}{ENDING}"), (mask, f"labelsTr/{name}{ENDING}")):
                write_volume(target / path, turned(volume, volume.array, case.laterality), volume.grid)
    count = sum(map(len, fold.values()))
    labels = json.loads((raw / "dataset.json").read_text())["segmentation"]["labels"]
    write_json(
        target / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": count, "file_ending": ENDING}
    )  # fmt: skip
    write_json(root / "nnunet_preprocessed" / NNUNET / "splits_final.json", [fold])


def turned(volume: Volume, array: np.ndarray, laterality: str | None) -> np.ndarray:
    """The array (z, y, x) of a sagittal volume, or one of its shape, with slices from lateral to medial; twice is as before."""
    is_against_left = volume.grid.direction[2] < 0
    return array[::-1] if is_against_left != (laterality == "L") else array


def train(root: Path, rate: float, epochs: int, seed: int) -> float:
    """Train fold 0 anew with a schedule of so many epochs; the seconds of its epochs alone, without what surrounds them."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    arrays = root / "nnunet_preprocessed" / NNUNET
    plans, description = (json.loads((arrays / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    torch.manual_seed(seed)
    np.random.seed(seed)
    trainer = nnUNetTrainer({**plans, "continue_training": False}, CONFIGURATION, 0, description, torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = STEPS_PER_EPOCH, 1
    trainer.num_epochs, trainer.save_every = epochs, epochs + 1
    trainer.initial_lr *= rate
    trainer.initialize()
    trainer.run_training()
    first, last = (
        np.array([trainer.logger.get_value(f"epoch_{end}_timestamps", step=number) for number in range(epochs)])
        for end in ("start", "end")
    )
    return float((last - first).sum())


def validation_series(root: Path) -> list[str]:
    """The names of the series that validate."""
    fold = json.loads((root / "nnunet_preprocessed" / NNUNET / "splits_final.json").read_text())[0]
    return list(fold["val"])


def predict(root: Path, images: Sequence[Path], target: Path, cohort: Path) -> None:
    """Masks of some series, with nnU-Net's mirroring, on their own grids and under their own names.

    `cohort` is the folder with the case table of the images.
    """
    use_folders(root)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    table = pd.read_csv(cohort / "cases.csv", dtype={"case": str}).set_index("case")["laterality"]
    predictor = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    trained = root / "nnunet_results" / NNUNET / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    predictor.initialize_from_trained_model_folder(str(trained), (0,), "checkpoint_final.pth")
    for image in images:
        volume, found = read_volume(image), target / image.name
        laterality = table[image.name.removesuffix(ENDING).rsplit("_", 1)[0]]
        array = np.ascontiguousarray(turned(volume, volume.array, laterality), dtype=np.float32)
        spacing = {"spacing": list(volume.grid.spacing_zyx_mm)}
        mask = predictor.predict_single_npy_array(array[None], spacing, None, None, False)
        write_volume(found, turned(volume, mask, laterality).astype(np.uint8), volume.grid)
