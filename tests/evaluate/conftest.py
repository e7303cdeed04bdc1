"""A tiny cohort with predictions of known quality, and the traces of a cross-validation."""

import csv
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from odiff.data.index import read_index
from odiff.data.store import open_array, read_stored
from odiff.geometry import Grid, write_volume
from odiff.inference.evaluate.command import main
from odiff.plan import read_plan, to_plain
from odiff.training.checkpoint import save_checkpoint

LABELS = {"background": 0, "femur": 1, "femoral_cartilage": 4}
DIAGNOSES = ("ACL", "MM")
GRID = Grid((6, 20, 24), (3.0, 0.5, 0.5), (1.0, 2.0, 3.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
PATIENTS = 12


@dataclass(frozen=True)
class Cohort:
    """A dataset folder, and predictions of its held-out cases."""

    dataset: Path
    references: Path
    predictions: Path

    @property
    def call(self):
        """The arguments that evaluate it."""
        return [
            "-p", str(self.predictions), "-r", str(self.references), "--dataset-json", str(self.dataset / "dataset.json"),
            "-np", "1", "--bootstrap", "50",
        ]  # fmt: skip


def anatomy(number, shift=0):
    """A bone with a plate of cartilage of two voxels on it."""
    mask = np.zeros(GRID.shape_zyx, np.uint8)
    mask[1:5, 4 : 12 + number % 3, 3 + shift : 20] = 1
    mask[1:5, 12 + number % 3 : 14 + number % 3, 3 + shift : 20] = 4
    return mask


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_predictions(folder, shift, noise, seed=0):
    """Masks shifted by some voxels, and probabilities that noise takes away from the truth."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(PATIENTS):
        truth = np.array([number % 2, number % 3 == 0], float)
        rows.append(
            {"case": f"k{number}"}
            | dict(zip(DIAGNOSES, expit(3 * truth - 1.5 + noise * rng.normal(size=2)), strict=True))
        )
        for view in ("sagittal", "axial"):
            write_volume(folder / f"k{number}_{view}.nii.gz", anatomy(number, shift), GRID)
    write_rows(folder / "diagnosis.csv", rows)
    return folder


@pytest.fixture
def cohort(tmp_path):
    """Twelve patients, two views each; all predictions shifted by one voxel."""
    dataset = tmp_path / "Dataset001_Knee"
    references = dataset / "labelsTs"
    references.mkdir(parents=True)
    description = {
        "name": "Knee", "file_ending": ".nii.gz", "segmentation": {"labels": LABELS},
        "diagnosis": {"labels": list(DIAGNOSES)}, "groups": ["center"],
    }  # fmt: skip
    (dataset / "dataset.json").write_text(json.dumps(description))
    rows = []
    for number in range(PATIENTS):
        center = "A" if number < 8 else "B"
        row = {
            "case": f"k{number}",
            "patient": f"p{number}",
            "center": center,
            "ACL": number % 2,
            "MM": int(number % 3 == 0),
        }
        rows.append(row)
        for view in ("sagittal", "axial"):
            write_volume(references / f"k{number}_{view}.nii.gz", anatomy(number), GRID)
    write_rows(dataset / "cases.csv", rows)
    return Cohort(dataset, references, write_predictions(tmp_path / "predictions", 1, 3.0))


@pytest.fixture
def crossed(planned, tmp_path):
    """Roots as two plans leave them after cross-validation, to change; see `leave_two_plans`."""
    return leave_two_plans(planned, tmp_path / "roots")


@pytest.fixture(scope="module")
def evaluated(planned, tmp_path_factory):
    """Such roots after odiff_evaluate, what summary.json holds, and what was printed; shared, so do not change them."""
    roots = leave_two_plans(planned, tmp_path_factory.mktemp("crossed") / "roots")
    with redirect_stdout(StringIO()) as printed:
        assert main(call_for(roots)) == 0
    path = roots / "results" / "Dataset001_Knee" / "evaluation" / "summary.json"
    return roots, json.loads(path.read_text()), printed.getvalue()


def call_for(roots):
    """The arguments that evaluate a cross-validation."""
    return [
        "-d", "1", "--preprocessed", str(roots / "preprocessed"), "--results", str(roots / "results"), "-np", "1",
        "--bootstrap", "30",
    ]  # fmt: skip


def leave_two_plans(planned, target):
    """Masks and logits are the truth, more or less disturbed.

    Plan ``cpu_demo`` misses one column of each structure in axial masks and adds a speck far away; ``better`` only has the
    speck. Its fusion ranks every case rightly, all else is noise.
    """
    roots = shutil.copytree(planned, target)
    folder = roots / "preprocessed" / "Dataset001_Knee"
    plan = read_plan(folder / "plans.json")
    shutil.copytree(folder / f"{plan.name}_axial", folder / "better_axial")
    for name, is_good in ((plan.name, False), ("better", True)):
        leave_run(folder, roots / "results" / "Dataset001_Knee" / name, replace(plan, name=name), is_good)
    return roots


def leave_run(folder, results, plan, is_good):
    cases = read_index(folder).cases
    for view, task in (("axial", "segmentation"), ("axial", "diagnosis"), ("fused", "diagnosis")):
        for fold in (0, 1):
            run = results / view / task / f"fold_{fold}"
            (run / "validation").mkdir(parents=True)
            meta = {"plan": to_plain(plan), "variant": "concat"}
            save_checkpoint(run / "checkpoint_final.safetensors", {}, meta)
            (run / "config.json").write_text(json.dumps(meta))
            members = cases[fold::2]
            if task == "segmentation":
                leave_masks(folder / f"{plan.name}_axial", members, run / "validation", is_good)
            else:
                leave_logits(members, plan.diagnoses, run / "validation", is_good and view == "fused")


def leave_masks(arrays, cases, validation, is_good):
    for series in (one for case in cases for one in case.of_view("axial") if one.is_masked):
        mask = open_array(arrays / f"{series.name}_truth.b2nd")[:].copy()
        if not is_good:
            mask[:, :, mask.shape[2] // 2] = 0
        mask[0, :2, :2] = 1
        write_volume(validation / f"{series.name}.nii.gz", mask, read_stored(arrays, series.name).geometry.grid)


def leave_logits(cases, diagnoses, validation, is_good):
    rows = []
    for case in cases:
        rng = np.random.default_rng(len(case.name) + int(case.name[-1]))
        row = {"case": case.name}
        for name in diagnoses:
            value = case.diagnoses[name] or 0
            probability = np.clip(0.1 + 0.8 * value if is_good else rng.random(), 0.02, 0.98)
            row |= {name: probability, f"{name}_logit": logit(probability)}
        rows.append(row)
    write_rows(validation / "predictions.csv", rows)
