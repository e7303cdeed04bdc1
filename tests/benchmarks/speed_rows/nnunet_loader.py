"""nnU-Net's side of row f: its preprocessing, its loader, and its transforms cut down to what odiff draws."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from odiff.plan import Augmentation, ViewPlan

NAME = "Dataset001_Knee"
CONFIGURATION = "3d_fullres"


def set_folders(folder: Path) -> None:
    """nnU-Net reads its folders from the environment when it is imported."""
    for part in ("raw", "preprocessed", "results"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{part}"] = str(folder / part)


def preprocess(folder: Path, odiff_raw: Path, view: ViewPlan) -> None:
    """nnU-Net's own planning and preprocessing of one view; patch and batch of its plan become ours."""
    set_folders(folder)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprint_dataset,
        plan_experiment_dataset,
        preprocess_dataset,
    )

    write_raw(folder / "raw" / NAME, odiff_raw, view.view)
    extract_fingerprint_dataset(1, num_processes=1)
    plan_experiment_dataset(1)
    path = folder / "preprocessed" / NAME / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"][CONFIGURATION] |= {"patch_size": list(view.patch_zyx), "batch_size": view.batch_size}
    path.write_text(json.dumps(plans))
    preprocess_dataset(1, configurations=(CONFIGURATION,), num_processes=(1,))
    (folder / "done").touch()


def write_raw(folder: Path, odiff_raw: Path, view: str) -> None:
    """One view of an odiff dataset as an nnU-Net dataset."""
    images = sorted((odiff_raw / "imagesTr").glob(f"*_{view}.nii.gz"))
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for image in images:
        case = image.name.removesuffix(f"_{view}.nii.gz")
        shutil.copyfile(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copyfile(odiff_raw / "labelsTr" / image.name, folder / "labelsTr" / f"{case}.nii.gz")
    labels = json.loads((odiff_raw / "dataset.json").read_text())["segmentation"]["labels"]
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(images), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def same_transforms(view: ViewPlan, settings: Augmentation, mode_seg: str) -> Any:
    """batchgeneratorsv2's transforms in nnU-Net's order, drawn as odiff draws them."""
    from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle, plane = np.deg2rad(settings.rotation_deg), view.patch_zyx[1:]

    def log_uniform(*_: Any, **__: Any) -> float:
        return float(np.exp(np.random.uniform(-settings.scale, settings.scale)))

    spatial = SpatialTransform(
        plane, [(0.5 - settings.shift) * size for size in plane], random_crop=True, p_rotation=1, rotation=(-angle, angle),
        p_scaling=1, scaling=log_uniform, p_synchronize_scaling_across_axes=1, mode_seg=mode_seg,
        border_mode_seg="constant", padding_value_seg=-1,
    )  # fmt: skip
    intensities = (
        BrightnessAdditiveTransform(0.0, settings.brightness, synchronize_channels=False),
        ContrastTransform(BGContrast((1 - settings.contrast, 1 + settings.contrast)), True, True),
        GammaTransform(BGContrast((1 - settings.gamma, 1 + settings.gamma)), 0, True, 1, 1),
        GaussianBlurTransform((0.2, settings.blur_voxels), True, True, 1, benchmark=True),
        GaussianNoiseTransform((0, settings.noise), 1, True),
    )
    drawn = [RandomTransform(transform, settings.probability) for transform in intensities]
    return ComposeTransforms([Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform(), *drawn])


def batches(folder: Path, view: ViewPlan, settings: Augmentation, foreground_fraction: float, kind: str) -> Any:
    """nnU-Net's loader, which gives one batch for every `next`.

    `kind`: ``bilinear`` does what odiff does; ``nearest`` too, but takes the nearest label; ``full`` is nnU-Net's complete
    default augmentation, which reads more than the patch to fill the corners that rotation brings in.
    """
    set_folders(folder)
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    preprocessed = folder / "preprocessed" / NAME
    manager = PlansManager(str(preprocessed / "nnUNetPlans.json"))
    labels = manager.get_label_manager(json.loads((preprocessed / "dataset.json").read_text()))
    data = nnUNetDatasetBlosc2(str(preprocessed / manager.get_configuration(CONFIGURATION).data_identifier))
    read, transforms = (
        default_transforms(view) if kind == "full" else (view.patch_zyx, same_transforms(view, settings, kind))
    )
    return nnUNetDataLoader(
        data, view.batch_size, read, view.patch_zyx, labels, foreground_fraction,
        probabilistic_oversampling=kind != "full", transforms=transforms,
    )  # fmt: skip


def default_transforms(view: ViewPlan) -> tuple[list[int], Any]:
    """The patch that nnU-Net's trainer would read, and its transforms for an anisotropic patch without deep supervision."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    turn = (-np.pi, np.pi)
    read = [view.patch_zyx[0], *get_patch_size(view.patch_zyx, turn, turn, turn, (0.85, 1.25))[1:]]
    return read, nnUNetTrainer.get_training_transforms(view.patch_zyx, turn, None, (0, 1, 2), True)
