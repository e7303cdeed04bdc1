"""Row d: one 24x320x320 series from file to file, against nnUNetv2_predict without mirroring on a plan of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speed_rows.measure import HERE, Sample, Worker, alternate, make_row, run_command, serve

VIEW = "sagittal"
NNUNET = "Dataset001_Knee"
CONFIGURATION = "3d_fullres"
MEASURED = 3


def run(names: Sequence[str], work: Path, repeats: int) -> list[dict[str, Any]]:
    """Whole commands in alternation; seconds with the models loaded, and the round trip of a mask, as details."""
    from speed_rows.knees import random_segmentation, write_knees

    raw = write_knees(work / "raw")
    model = random_segmentation(work, VIEW)
    nnunet = nnunet_environment(work)
    write_nnunet(raw, work)
    prepare_nnunet(nnunet)
    image = raw / "imagesTs" / f"new_{VIEW}.nii.gz"
    ours_in, peer_in = (
        _folder_with(work / "in_ours", image, image.name),
        _folder_with(work / "in_peer", image, "new_0000.nii.gz"),
    )

    def ours() -> Sample:
        shutil.rmtree(work / "out_ours", ignore_errors=True)
        return run_command(
            [program("odiff_predict"), "-i", str(ours_in), "-o", str(work / "out_ours"), "-m", str(model)]
        )

    def peer() -> Sample:
        shutil.rmtree(work / "out_peer", ignore_errors=True)
        return run_command(nnunet_command(peer_in, work / "out_peer"), nnunet)

    sides = alternate(ours, peer, repeats=repeats)
    with Worker("segmentation", "ours", str(work)) as a, Worker("segmentation", "peer", str(work)) as b:
        loaded = alternate(a, b, repeats=min(repeats, MEASURED))
        details = {**a.info, **b.info}
    details["loaded"] = make_row("loaded", "models loaded, in process", *loaded)
    details["round_trip_dice_ratio"] = round(details["round_trip_dice_ours"] / details["round_trip_dice_peer"], 4)
    return [make_row(names[0], "segment a 24x320x320 series, file to file", *sides, **details)]


def program(name: str) -> str:
    """An installed command, that of this interpreter first."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        sys.exit(f'{name} is not installed; pip install ".[benchmark]"')
    return found


def _folder_with(folder: Path, image: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, folder / name)
    return folder


def nnunet_environment(work: Path) -> dict[str, str]:
    """nnU-Net's three roots below `work`."""
    return {f"nnUNet_{root}": str(work / f"nnunet_{root}") for root in ("raw", "preprocessed", "results")}


def nnunet_command(source: Path, target: Path) -> list[str]:
    """The command in its fastest form for one case: without worker processes."""
    return [
        program("nnUNetv2_predict"), "-i", str(source), "-o", str(target), "-d", "1", "-c", CONFIGURATION, "-f", "0",
        "--disable_tta", "-device", "cpu", "-npp", "0", "-nps", "0",
    ]  # fmt: skip


def write_nnunet(raw: Path, work: Path) -> None:
    """The same training series of one view as an nnU-Net dataset."""
    labels = json.loads((raw / "dataset.json").read_text())["segmentation"]["labels"]
    folder = work / "nnunet_raw" / NNUNET
    images = sorted((raw / "imagesTr").glob(f"*_{VIEW}.nii.gz"))
    for image in images:
        case = image.name.removesuffix(f"_{VIEW}.nii.gz")
        _folder_with(folder / "imagesTr", image, f"{case}_0000.nii.gz")
        _folder_with(folder / "labelsTr", raw / "labelsTr" / image.name, f"{case}.nii.gz")
    description = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": len(images), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


def prepare_nnunet(environment: dict[str, str]) -> None:
    """Its fingerprint, its plan, and a checkpoint of its network with random weights; what is there is kept."""
    if not (Path(environment["nnUNet_preprocessed"]) / NNUNET / "nnUNetPlans.json").exists():
        run_command([program("nnUNetv2_plan_and_preprocess"), "-d", "1", "--no_pp", "-npfp", "1"], environment)
    subprocess.run(
        [sys.executable, "-m", "speed_rows.segmentation", "checkpoint"], cwd=HERE, env={**os.environ, **environment},
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def save_random_checkpoint() -> None:
    """What nnUNetv2_train leaves behind, after no training."""
    import torch
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = Path(nnUNet_preprocessed) / NNUNET
    plans, description = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    torch.manual_seed(0)
    trainer = nnUNetTrainer({**plans, "continue_training": False}, CONFIGURATION, 0, description, torch.device("cpu"))
    if (Path(trainer.output_folder) / "checkpoint_final.pth").exists():
        return
    arrays = Path(trainer.preprocessed_dataset_folder)
    arrays.mkdir(exist_ok=True)
    (arrays / "none.b2nd").touch()  # the trainer tells by the endings there how its arrays are stored
    trainer.initialize()
    for name, content in (("plans.json", plans), ("dataset.json", description)):
        (Path(trainer.output_folder_base) / name).write_text(json.dumps(content))
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))


def prepare_ours(work: Path) -> tuple[dict[str, Any], Any]:
    """Ours in process: a volume in memory to its labels."""
    from odiff.geometry import read_mask, read_volume
    from odiff.inference.predictor import Predictor
    from speed_rows.knees import DATASET, random_segmentation

    predictor = Predictor(random_segmentation(work, VIEW))
    path = work / "raw" / DATASET / "imagesTs" / f"new_{VIEW}.nii.gz"
    volume = read_volume(path)
    truth = read_mask(work / "raw" / DATASET / "labelsTs" / path.name).array
    plan = predictor.plan.views[VIEW]
    info = {
        "ours_spacing_zyx_mm": plan.spacing_zyx_mm, "ours_patch_zyx": plan.patch_zyx,
        "round_trip_dice_ours": mean_dice(round_trip_ours(volume, truth, predictor), truth),
    }  # fmt: skip
    return info, lambda: predictor.segment(volume, VIEW, "R")


def round_trip_ours(volume: Any, truth: np.ndarray, predictor: Any) -> np.ndarray:
    """A mask through odiff's working grid and back as probabilities of 0 and 1."""
    import torch

    from odiff.data.preprocessing import prepare
    from odiff.learning.segment import class_values, labels_on_grid

    prepared = prepare(volume, truth, predictor.plan.views[VIEW], False)
    scores = torch.from_numpy(np.stack([prepared.mask == value for value in class_values(predictor.plan)])).float()
    return labels_on_grid([scores], prepared.geometry, predictor.plan)


def prepare_peer(work: Path) -> tuple[dict[str, Any], Any]:
    """nnU-Net in process: an array in memory to its labels."""
    os.environ.update(nnunet_environment(work))
    import torch
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    model = work / "nnunet_results" / NNUNET / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    image, properties = SimpleITKIO().read_images([str(work / "in_peer" / "new_0000.nii.gz")])
    truth, _ = SimpleITKIO().read_seg(str(work / "raw" / NNUNET / "labelsTs" / f"new_{VIEW}.nii.gz"))
    configuration = predictor.configuration_manager
    info = {
        "peer_spacing_zyx_mm": configuration.spacing, "peer_patch_zyx": configuration.patch_size,
        "peer_command": "nnUNetv2_predict " + " ".join(nnunet_command(Path("IN"), Path("OUT"))[1:]),
        "round_trip_dice_peer": mean_dice(round_trip_peer(image, properties, truth, predictor), truth[0]),
    }  # fmt: skip
    return info, lambda: predictor.predict_single_npy_array(image, properties)


def round_trip_peer(image: np.ndarray, properties: dict[str, Any], truth: np.ndarray, predictor: Any) -> np.ndarray:
    """A mask through nnU-Net's working grid and back, as its preprocessing and its export resample."""
    from nnunetv2.inference.export_prediction import (
        convert_predicted_logits_to_segmentation_with_correct_shape as export,
    )

    configuration, plans, labels = predictor.configuration_manager, predictor.plans_manager, predictor.label_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    _, mask, found = preprocessor.run_case_npy(
        image, truth, dict(properties), plans, configuration, predictor.dataset_json
    )
    scores = np.stack([mask[0] == value for value in labels.all_labels]).astype(np.float32)
    return export(scores, plans, configuration, labels, found)


def mean_dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean Dice over the structures that are there."""
    values = [value for value in np.unique(truth) if value > 0]
    scores = [2 * ((found == v) & (truth == v)).sum() / ((found == v).sum() + (truth == v).sum()) for v in values]
    return float(np.mean(scores))


if __name__ == "__main__":
    if sys.argv[1] == "checkpoint":
        save_random_checkpoint()
    else:
        side = {"ours": prepare_ours, "peer": prepare_peer}[sys.argv[1]]
        serve(lambda: side(Path(sys.argv[2])))
