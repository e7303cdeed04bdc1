"""The folder of predictions: masks, diagnosis.csv, gate weights, and predict.json, which tells what each was made with and of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from odiff.dataset import Series
from odiff.errors import DatasetError
from odiff.geometry import Volume, write_volume
from odiff.inference.predictor import Diagnosis, Predictor
from odiff.inference.provenance import FILE, MadeOf, Provenance, check_same, read_provenance, write_provenance
from odiff.plan import Plan
from odiff.storage import atomic_path, write_text
from odiff.vocabulary import FUSED

TABLE = "diagnosis.csv"
ANSWER = {True: "yes", False: "no"}


@dataclass(frozen=True)
class OutputFolder:
    """Predictions of one model; everything is written as soon as it is there.

    `rows` is diagnosis.csv by case.
    """

    path: Path
    plan: Plan
    provenance: Provenance
    rows: dict[str, dict[str, str]]

    def has_mask(self, series: Series, with_probabilities: bool) -> bool:
        """Whether an earlier call wrote the mask of a series, and its probabilities where they are wanted."""
        return (self.path / series.image.name).exists() and (
            not with_probabilities or self._probabilities(series).exists()
        )

    def has_diagnosis(self, case: str, views: Sequence[str], is_tabular: bool) -> bool:
        """Whether an earlier call diagnosed the case by these views, with or without its row of the table."""
        answers = {"views": "+".join(views), "tabular": ANSWER[is_tabular]}
        row = self.rows.get(case, {})
        return {key: row.get(key) for key in answers} == answers

    def made_of(self, case: str) -> MadeOf | None:
        """What an earlier call predicted a case from; None where there was none."""
        return self.provenance.cases.get(case)

    def write_mask(self, series: Series, labels: np.ndarray, volume: Volume, probabilities: np.ndarray | None) -> None:
        """A mask (z, y, x) under the name of its image, and probabilities (classes, z, y, x) beside it where there are any."""
        if probabilities is not None:
            with atomic_path(self._probabilities(series)) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, probabilities=probabilities)
        write_volume(self.path / series.image.name, labels, volume.grid, like=series.image)

    def forget_masks(self, members: Sequence[Series]) -> None:
        """Remove what was made of another image or side, lest it stays where making it anew fails."""
        for one in members:
            (self.path / one.image.name).unlink(missing_ok=True)
            self._probabilities(one).unlink(missing_ok=True)

    def forget_fused(self, members: Sequence[Series]) -> None:
        """Remove what ``--fuse-segmentation`` made of masks that are now made anew."""
        for one in members:
            (self.path / FUSED / one.image.name).unlink(missing_ok=True)

    def add_diagnosis(self, case: str, found: Diagnosis) -> None:
        """Write a row of diagnosis.csv, and what a gate weighed."""
        if found.gates:
            _add_gates(self.path, case, found.gates, self.plan)
        self.rows[case] = table_row(case, found)
        write_table(self.path / TABLE, self.rows, self.plan)

    def forget_diagnosis(self, case: str) -> None:
        """Remove the row of a case that can be diagnosed no longer, lest it stays that of another image."""
        if self.rows.pop(case, None):
            write_table(self.path / TABLE, self.rows, self.plan)
            _forget_gates(self.path, case)

    def note_images(self, case: str, now: MadeOf) -> None:
        """Note the images of a case that was predicted before they were noted, from which on a change is seen."""
        before = self.provenance.cases[case]
        if not before.images:
            self.note_case(case, replace(before, images=now.images))

    def note_case(self, case: str, made_of: MadeOf) -> None:
        """Note what a case is predicted from, before the first of its files and after the last."""
        self.provenance.cases[case] = made_of
        write_provenance(self.path / FILE, self.provenance)

    def draw_gates(self) -> None:
        """Draw what a gate weighed in all cases, where the picture is not of them yet."""
        from odiff.learning.gates import draw_gates  # needs pandas and matplotlib, which are slow to import

        draw_gates(self.path)

    def _probabilities(self, series: Series) -> Path:
        return self.path / f"{series.name}.npz"


def open_output(target: Path, source: Path, predictor: Predictor, series: Sequence[Series]) -> OutputFolder:
    """The output folder, noting what it is predicted with.

    Raises
    ------
    DatasetError
        It holds predictions of other weights or settings, or files of the names of predictions that are none; or it is `source`.
    """
    if source.resolve() == target.resolve():
        raise DatasetError(f"-o {target}: is the folder of the images, which masks would overwrite; choose another -o")
    now = Provenance(
        predictor.models.identity, predictor.step_size, predictor.is_mirroring, str(predictor.models.folder)
    )
    path = target / FILE
    is_new = not path.exists()
    found = now if is_new else read_provenance(path)
    check_same(path, found, now)
    names = [target / one.image.name for one in series if one.case not in found.cases]
    names += [target / TABLE] if is_new else []
    if strange := [one for one in names if one.exists() or one.is_symlink()]:
        raise DatasetError(
            f"{strange[0]}: is there and not written by odiff_predict, which notes in {FILE} what it writes ({len(strange)} such "
            "files); choose another -o"
        )
    if is_new:
        write_provenance(path, found)
    return OutputFolder(target, predictor.plan, found, read_table(target / TABLE, predictor.plan))


def columns(plan: Plan) -> list[str]:
    """Columns of diagnosis.csv."""
    return ["case", *plan.diagnoses, "views", "tabular", "calibrated", "laterality_known"]


def table_row(case: str, found: Diagnosis) -> dict[str, str]:
    """One row of diagnosis.csv."""
    probabilities = {name: f"{value:.5f}" for name, value in found.probabilities.items()}
    return {
        "case": case,
        **probabilities,
        "views": "+".join(found.views),
        "tabular": ANSWER[found.is_tabular],
        "calibrated": ANSWER[found.is_calibrated],
        "laterality_known": ANSWER[found.is_laterality_known],
    }


def read_table(path: Path, plan: Plan) -> dict[str, dict[str, str]]:
    """Rows of an earlier diagnosis.csv by case.

    Raises
    ------
    DatasetError
        The file is of another model.
    """
    if not path.exists():
        return {}
    import pandas as pd  # slow to import, and segmentation alone has no table

    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(table.columns) != columns(plan):
        raise DatasetError(
            f"{path}: has other columns than this model's ({', '.join(columns(plan))}); choose another -o"
        )
    return {row["case"]: {str(key): str(value) for key, value in row.items()} for row in table.to_dict("records")}


def write_table(path: Path, rows: dict[str, dict[str, str]], plan: Plan) -> None:
    """Write diagnosis.csv, sorted by case."""
    import pandas as pd

    table = pd.DataFrame([rows[case] for case in sorted(rows)], columns=columns(plan))
    write_text(path, table.to_csv(index=False))


def _forget_gates(target: Path, case: str) -> None:
    from odiff.learning.gates import forget_gates  # needs pandas and matplotlib, which are slow to import

    forget_gates(target, case)


def _add_gates(target: Path, case: str, gates: dict[str, tuple[float, ...]], plan: Plan) -> None:
    from odiff.learning.gates import add_gates, gate_table  # needs pandas and matplotlib, which are slow to import

    add_gates(target, gate_table([case], plan.diagnoses, list(gates), np.array(list(gates.values())).T[None]))
