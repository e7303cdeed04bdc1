"""Phantom knees as a clinical scanner stores them, and models of odiff's default plan for them with random weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from odiff.api import PlanningOptions
from odiff.api import plan as make
from odiff.geometry import VIEWS, write_volume
from odiff.learning.agreement import WIDTH
from odiff.learning.code_model import CODE, build_code
from odiff.learning.diagnose import build_diagnosis
from odiff.learning.pretrained import ResultsFolder
from odiff.learning.run import RunSettings, describe_run
from odiff.learning.segment import build_segmentation
from odiff.learning.usual_blocks import usual_blocks
from odiff.network.diagnosis import FeatureChoice
from odiff.network.fusion import build_fusion
from odiff.network.shared_code import CodeDiagnosis
from odiff.phantom.acquisition import SCANNERS, Size
from odiff.phantom.study import JOINTS, PhantomSeries, acquire_view, draw_place, draw_warp
from odiff.phantom.writer import dataset_json
from odiff.plan import Plan, read_plan
from odiff.storage import write_json, write_text
from odiff.training.checkpoint import save_checkpoint
from odiff.training.run_folder import RunFolder

DATASET = "Dataset001_Knee"
CASES = 3


@dataclass(frozen=True)
class Scan:
    """Voxels of a series; pixels differ by patient, and the last is the knee to predict, so that neither side's median fits it."""

    shape_zyx: tuple[int, int, int]
    slice_mm: float
    pixels_mm: tuple[float, ...]


LARGE = Scan((24, 320, 320), 3.5, (0.5, 0.45, 0.55, 0.47))
PAPER_SIZED = Scan((16, 256, 256), 4.5, (0.625, 0.56, 0.69, 0.59))


def make_series(number: int, view: str, scan: Scan) -> PhantomSeries:
    """A series of patient `number`, a right knee."""
    rng = np.random.default_rng([number, VIEWS.index(view)])
    joint = JOINTS["knee"]
    anatomy = joint.build(np.random.default_rng(number), diagnoses_of(number), {})
    warp = draw_warp(np.random.default_rng(number), 1.5)
    shape = scan.shape_zyx
    size = Size(shape[0] + 1, shape[1], scan.slice_mm, scan.pixels_mm[number])
    whole = acquire_view(anatomy, joint.labels, view, "R", size, SCANNERS[0], warp, draw_place("R", rng), rng)
    kept = slice(0, shape[0])
    grid = replace(whole.image.grid, shape_zyx=shape)
    return PhantomSeries(
        replace(whole.image, array=whole.image.array[kept], grid=grid), whole.mask[kept], whole.lesion[kept]
    )


def diagnoses_of(number: int) -> dict[str, int]:
    """Each label is on in every other patient."""
    return {name: (number + place) % 2 for place, name in enumerate(JOINTS["knee"].diagnoses)}


def write_series(folder: Path, case: str, view: str, series: PhantomSeries, part: str) -> Path:
    """Image and mask in a dataset folder's manner; the path of the image."""
    file = f"{case}_{view}.nii.gz"
    write_volume(folder / f"images{part}" / file, series.image.array.round().astype("int16"), series.image.grid)
    write_volume(folder / f"labels{part}" / file, series.mask.astype("uint8"), series.image.grid)
    return folder / f"images{part}" / file


def write_knees(raw: Path, scan: Scan = LARGE) -> Path:
    """The dataset: three knees to plan on, a fourth, ``new``, to predict, three views each; what is there is kept."""
    folder = raw / DATASET
    if (folder / "dataset.json").exists():
        return folder
    rows = ["case,patient,laterality," + ",".join(diagnoses_of(0))]
    for number in range(CASES + 1):
        case, part = (f"knee_{number}", "Tr") if number < CASES else ("new", "Ts")
        for view in VIEWS:
            write_series(folder, case, view, make_series(number, view, scan), part)
        rows.append(f"{case},P{number},R," + ",".join(map(str, diagnoses_of(number).values())))
    write_text(folder / "cases.csv", "\n".join(rows) + "\n")
    write_json(folder / "dataset.json", dataset_json("knee") | {"tabular": {}, "groups": []})
    return folder


def planned(work: Path) -> Plan:
    """odiff's default plan of the dataset in ``work / "raw"``, which is made where it is missing."""
    path = work / "preprocessed" / DATASET / "plans.json"
    if not path.exists():
        write_knees(work / "raw")
        make(work / "raw", work / "preprocessed", "1", PlanningOptions(processes=1))
    return read_plan(path)


def random_segmentation(work: Path, view: str) -> Path:
    """A model folder with one fold of segmentation of `view` under odiff's default plan, its weights random."""
    plan, results = planned(work), ResultsFolder(work / "results_segmentation" / DATASET / "default")
    torch.manual_seed(0)
    _save(results.task(view, "segmentation", "0"), plan, view, "segmentation", build_segmentation(plan, view), {})
    return results.path


def random_diagnosis(work: Path) -> Path:
    """A model folder with one fold of diagnosis under odiff's default plan, its weights random: all views, fusion, shared code."""
    plan, results = planned(work), ResultsFolder(work / "results_diagnosis" / DATASET / "default")
    torch.manual_seed(0)
    networks = {}
    for view, view_plan in plan.views.items():
        choice = FeatureChoice(view_plan.diffusion.probe_time_steps[0], usual_blocks(view_plan))
        network = build_diagnosis(plan, view, choice)
        if network.registration is not None:  # without a template nothing would be moved
            network.registration.template.uniform_()
        features = {"features": {"time_step": choice.time_step, "blocks": list(choice.blocks)}}
        _save(results.task(view, "diagnosis", "0"), plan, view, "diagnosis", network, features)
        networks[view] = network
    heads = {view: network.head for view, network in networks.items()}
    fusion = build_fusion("concat", heads, len(plan.diagnoses))
    fusion.heads.start_from(heads)
    run = results.task("fused", "diagnosis", "0")
    fused = {"fused_views": list(networks), "variant": "concat"}
    _save(run, plan, "fused", "diagnosis", fusion, fused)
    code = random_code(plan, list(networks))
    _save(run, plan, "fused", "diagnosis", code, fused | {"code_views": list(networks), "width": WIDTH}, CODE)
    return results.path


def random_code(plan: Plan, views: list[str]) -> CodeDiagnosis:
    """A diagnosis from the shared code that takes part in the mix of every label and set of views."""
    network = CodeDiagnosis(build_code(plan, views, WIDTH), len(plan.diagnoses))
    for view in views:
        network.code.part(view).registration.template.uniform_()  # without a template nothing would be moved
        network.code.part(view).directions.normal_()
    network.weight.normal_()
    network.share.fill_(0.5)
    return network


def _save(
    run: RunFolder, plan: Plan, view: str, task: str, network: nn.Module, more: dict[str, Any], kind: str = "final"
) -> None:
    meta = describe_run(plan, view, task, "0", RunSettings(0, torch.device("cpu"), 0)) | more
    run.write_config(meta)
    tensors = {f"weights.{name}": tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(run.checkpoint(kind), tensors, meta)
