"""Released weights of the paper as a pretrained model of odiff."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from odiff.dataset import DatasetDescription
from odiff.errors import CheckpointError, PlanError
from odiff.experiment_planning.fingerprint import Fingerprint, ViewFingerprint
from odiff.experiment_planning.planner import Machine, plan_dataset
from odiff.experiment_planning.presets import read_preset
from odiff.geometry import VIEWS
from odiff.learning.context import open_context
from odiff.learning.released import read_released
from odiff.learning.run import RunSettings, describe_run
from odiff.network.backbone import build_backbone
from odiff.plan import NetworkPlan, Plan, write_plan
from odiff.storage import file_digest
from odiff.training.checkpoint import save_checkpoint
from odiff.training.run_folder import RunFolder

log = logging.getLogger(__name__)
PRESET, SOURCE = "paper", "Released"
# Of a common knee scan, for a plan that belongs to no dataset: 16 slices of 4 mm, 160 mm in plane.
NOMINAL_EXTENT_MM = (64.0, 160.0, 160.0)
NOTHING_LABELLED = DatasetDescription(
    name=SOURCE, joint="knee", file_ending=".nii.gz", views=VIEWS, labels={}, ignore_label=None, sparse_slices=False,
    left_right=(), diagnoses=(), tabular={}, groups=(),
)  # fmt: skip


def import_into_folder(source: Path, view: str, folder: Path) -> RunFolder:
    """Write the weights of `source` as a pretrained model of `view` into `folder`, with a plan of the paper's preset.

    Raises
    ------
    CheckpointError
        `source` is not a released checkpoint, or `folder` holds something already.
    """
    run = _write(source, released_plan(view), view, folder)
    write_plan(folder / "plans.json", released_plan(view))
    return run


def import_into_dataset(source: Path, view: str, preprocessed: Path, results: Path, wanted: str) -> RunFolder:
    """Write the weights of `source` where the pretraining of a dataset's `view` would lie, so that odiff_train starts from them.

    Raises
    ------
    CheckpointError
        `source` is not a released checkpoint, or there is a pretraining already.
    TrainingError
        Another process pretrains there.
    PlanError
        The dataset is not planned with the paper's network.
    """
    context = open_context(preprocessed, results, wanted)
    context.view_plan_exists(view)
    network = context.plan.views[view].network
    if network != released_plan(view).views[view].network:
        raise PlanError(
            f"{context.folder / 'plans.json'}: its {view} network is not the paper's ({network.architecture}, channels "
            f"{list(network.channels)}); plan with odiff_plan_and_preprocess -d {wanted} --preset {PRESET}"
        )
    run = context.results.pretrain(view)
    with run.alone():
        return _write(source, context.plan, view, run.path)


def _write(source: Path, plan: Plan, view: str, folder: Path) -> RunFolder:
    run = RunFolder(folder)
    if run.path.exists() and any(run.path.iterdir()):
        raise CheckpointError(f"{folder}: is not empty; give another folder, or move what is there aside")
    weights = read_released(source, tensor_shapes(plan.views[view].network))
    meta = describe_run(plan, view, "pretrain", None, RunSettings(0, torch.device("cpu"), 0))
    meta |= {"imported_from": source.name, "sha256": file_digest(source), "step": plan.pretrain.steps}
    save_checkpoint(run.checkpoint("final"), {f"weights.{name}": tensor for name, tensor in weights.items()}, meta)
    run.write_config(meta)
    log.info("%d tensors, %.1f M values", len(weights), sum(one.numel() for one in weights.values()) / 1e6)
    return run


def tensor_shapes(network: NetworkPlan) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a network, by name."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build_backbone(network).state_dict().items()}


def released_plan(view: str) -> Plan:
    """The paper's plan of one view, for no dataset in particular; its spacing is nominal."""
    preset = read_preset(PRESET)
    patch = preset.limits.fixed_patch_zyx or (16, 256, 256)
    spacing = (NOMINAL_EXTENT_MM[0] / patch[0], NOMINAL_EXTENT_MM[1] / patch[1], NOMINAL_EXTENT_MM[2] / patch[2])
    seen = ViewFingerprint(view, 1, 0, (spacing,), (patch,), (NOMINAL_EXTENT_MM,), 1.0, {}, {}, {})
    fingerprint = Fingerprint(SOURCE, 1, 1, 0, False, {}, {}, {view: seen}, {})
    machine = Machine(float("inf"), 4, "cpu")
    plan = plan_dataset(fingerprint, NOTHING_LABELLED, PRESET, preset, machine, SOURCE, (view,))
    return replace(plan, decisions=())
