"""A loaded model for many calls: arrays or SimpleITK images in, segmentations and probabilities out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from odiff.data.preprocessing import PreparedVolume, prepare
from odiff.data.tabular import Row, has_table
from odiff.errors import CheckpointError
from odiff.geometry import Volume, image_from_volume, volume_from_image
from odiff.inference.case_embedding import CaseEmbedding, Images, embed_case
from odiff.inference.models import LoadedModels, Wanted, load_models
from odiff.inference.postprocessing import cleaned
from odiff.learning.calibration import StoredCalibration
from odiff.learning.code_model import code_rows
from odiff.learning.diagnose import volume_logits
from odiff.learning.segment import labels_and_probabilities_on_grid, labels_on_grid, probability_slabs
from odiff.learning.tabular_model import TABULAR
from odiff.metrics.calibration import expit
from odiff.network.fusion import GatedFusion
from odiff.plan import Plan
from odiff.vocabulary import FUSED, PREDICTED


@dataclass(frozen=True)
class Diagnosis:
    """Probabilities of one case by label; `views` took part.

    `gates` is what a gated fusion weighed: by view of the model, one weight per label, 0 where the view is missing.
    `is_tabular` tells whether the case's row of the table took part.
    """

    probabilities: dict[str, float]
    views: tuple[str, ...]
    is_calibrated: bool
    is_laterality_known: bool
    gates: dict[str, tuple[float, ...]] | None = None
    is_tabular: bool = False


@dataclass(frozen=True)
class CaseImages:
    """One case to diagnose: volumes by view, each view with one or more series, and its row of the table; None is unknown."""

    volumes: dict[str, tuple[Volume, ...]]
    laterality: str | None = None
    tabular: Row = field(default_factory=dict)


class Predictor:
    """Keeps the networks of a results folder in memory.

    Parameters
    ----------
    model : ``odiff_results/<dataset>/<plan>``.
    folds : which folds to ensemble; all that are trained by default.
    checkpoint : ``final`` or ``best``.
    tasks : what to load models for.
    diagnose_by : one view, or ``fused``; by default the fusion where there is one, else the mean of the views.
    label_fraction : predict with what was trained with ``--label-fraction``.

    Raises
    ------
    CheckpointError
        The folder holds no trained model; the message names odiff_train.
    """

    def __init__(
        self,
        model: Path,
        *,
        folds: Sequence[str] | None = None,
        checkpoint: str = "final",
        device: torch.device | None = None,
        step_size: float = 0.5,
        is_mirroring: bool = True,
        tasks: Sequence[str] = PREDICTED,
        diagnose_by: str | None = None,
        label_fraction: float = 1.0,
    ) -> None:
        self.device = device or torch.device("cpu")
        wanted = Wanted(tuple(tasks), diagnose_by, label_fraction)
        self.models: LoadedModels = load_models(Path(model), folds, checkpoint, self.device, wanted)
        self.step_size, self.is_mirroring = step_size, is_mirroring

    @property
    def plan(self) -> Plan:
        """The plan that the models were trained with."""
        return self.models.plan

    def can_segment(self, view: str) -> bool:
        """Whether a segmentation model of the view is loaded."""
        return view in self.models.segmentation

    def can_diagnose(self) -> bool:
        """Whether any diagnosis model is loaded."""
        return bool(self.models.diagnosis)

    @property
    def views(self) -> frozenset[str]:
        """The views that a model is loaded of."""
        return frozenset(self.models.segmentation) | frozenset(self.models.diagnosis)

    @property
    def is_gated(self) -> bool:
        """Whether a fusion weighs the views by a gate."""
        return any(isinstance(one, GatedFusion) for one in self.models.fusion.values())

    @property
    def table_columns(self) -> dict[str, str]:
        """Columns of the case table that the models read, and whether they are continuous or categorical."""
        return {name: kind for model in self.models.tabular.values() for name, kind in model.columns.kinds.items()}

    def uses_table(self, views: Sequence[str], row: Row) -> bool:
        """Whether the row of a case with these views takes part: the models read the table and something of it is known."""
        known = {name: row.get(name) for name in self.table_columns}
        return self._uses_fusion(views) and has_table(known)

    def segment(self, volume: Volume, view: str, laterality: str | None = None) -> np.ndarray:
        """Label values (z, y, x) on the volume's own grid."""
        slabs, prepared = self._slabs(volume, view, laterality)
        return self.cleaned(labels_on_grid(slabs, prepared.geometry, self.models.segmentation_plans[view]), view)

    def segment_with_probabilities(
        self, volume: Volume, view: str, laterality: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Label values (z, y, x), and class probabilities (classes, z, y, x) float16, both on the volume's own grid.

        What `odiff_evaluate` found to help is done to the labels alone: small components are dropped.
        """
        slabs, prepared = self._slabs(volume, view, laterality)
        plan = self.models.segmentation_plans[view]
        labels, probabilities = labels_and_probabilities_on_grid(slabs, prepared.geometry, plan)
        return self.cleaned(labels, view), probabilities

    def cleaned(self, labels: np.ndarray, view: str) -> np.ndarray:
        """Label values (z, y, x) without the small components that postprocessing.json drops in this view."""
        return cleaned(labels, self.models.postprocessing.get(view, ()), self.plan)

    def segment_image(self, image: sitk.Image, view: str, laterality: str | None = None) -> sitk.Image:
        """A SimpleITK image in, a label image on the same grid out."""
        volume = volume_from_image(image, "image")
        return image_from_volume(self.segment(volume, view, laterality), volume.grid)

    def _slabs(
        self, volume: Volume, view: str, laterality: str | None
    ) -> tuple[Iterator[torch.Tensor], PreparedVolume]:
        if not self.can_segment(view):
            raise CheckpointError(
                f"{self.models.folder}: no trained segmentation model of view {view}; run odiff_train for it"
            )
        networks, plan = self.models.segmentation[view], self.models.segmentation_plans[view]
        prepared = self._prepared(volume, plan, view, laterality)
        slabs = probability_slabs(networks, prepared.image, plan, view, self.device, self.step_size, self.is_mirroring)
        return slabs, prepared

    def _prepared(self, volume: Volume, plan: Plan, view: str, laterality: str | None) -> PreparedVolume:
        """A volume as the networks of `plan` want it."""
        return prepare(volume, None, plan.views[view], laterality == "L" and plan.flip_left_joints)

    def diagnose(self, case: CaseImages) -> Diagnosis:
        """Probabilities of one case from all its views that have a model.

        Where the laterality is unknown but the training knew it, both mirrorings are averaged.

        Raises
        ------
        CheckpointError
            None of the case's views has a trained diagnosis model.
        """
        views = tuple(view for view in self.plan.views if case.volumes.get(view) and view in self.models.diagnosis)
        if not views:
            raise CheckpointError(
                f"{self.models.folder}: no diagnosis model of the views {', '.join(case.volumes)}; run odiff_train"
            )
        found = [self._logits(case, views, side) for side in self._sides(case)]
        logits = np.mean([one for one, _ in found], axis=0)
        weighed = [gates for _, gates in found if gates]
        gates = {
            view: tuple(np.mean([one[view] for one in weighed], axis=0).tolist()) for view in next(iter(weighed), {})
        }
        is_tabular = self.uses_table(views, case.tabular)
        calibration = self._calibration(views, is_tabular)
        probabilities = calibration.calibration.apply(logits[None])[0] if calibration else expit(logits)
        return Diagnosis(
            dict(zip(self.plan.diagnoses, map(float, probabilities), strict=True)),
            views,
            calibration is not None,
            case.laterality is not None,
            gates or None,
            is_tabular,
        )

    def _sides(self, case: CaseImages) -> Sequence[str | None]:
        """The lateralities by which a case is looked at."""
        is_unknown = case.laterality is None and self.plan.average_unknown_laterality
        return ("R", "L") if is_unknown else (case.laterality,)

    def _calibration(self, views: Sequence[str], is_tabular: bool) -> StoredCalibration | None:
        """Of what the logits come from; of a mean of views there is none."""
        found = self.models.calibration
        if is_tabular:
            return found.get(TABULAR)
        if self._uses_fusion(views):
            return found.get(FUSED)
        return found.get(views[0]) if len(views) == 1 else None

    def _uses_fusion(self, views: Sequence[str]) -> bool:
        """Whether every fold's fusion knows one of the views at least."""
        fusions = self.models.fusion.values()
        return bool(fusions) and all(any(view in one.heads.views for view in views) for one in fusions)

    def _logits(
        self, case: CaseImages, views: Sequence[str], laterality: str | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
        """Logits (labels,), and what a gate weighed."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            waiting = {
                v: [pool.submit(self._prepared, one, self.plan, v, laterality) for one in case.volumes[v]]
                for v in views
            }
            prepared = {v: [one.result().image for one in some] for v, some in waiting.items()}
        if self._uses_fusion(views):
            fused = [self._fused(fold, prepared, case.tabular) for fold in self.models.fusion]
            gates = [one for _, one in fused if one]
            mean = {view: np.mean([one[view] for one in gates], axis=0) for view in next(iter(gates), {})}
            return np.mean([one for one, _ in fused], axis=0), mean or None
        per_view = [self._view_logits(view, images) for view, images in prepared.items()]
        return np.mean(per_view, axis=0), None

    def _view_logits(self, view: str, images: Sequence[np.ndarray]) -> np.ndarray:
        axes: Any = self.plan.views[view].mirror_axes if self.is_mirroring else ()
        networks = self.models.diagnosis[view].values()
        return np.mean(
            [volume_logits(network, image, self.plan, view, axes) for network in networks for image in images], axis=0
        )

    def _embedded(self, fold: str, images: Images) -> CaseEmbedding:
        """What a fold's networks, and its shared code, make of preprocessed volumes (z, y, x)."""
        networks = {view: self.models.diagnosis[view][fold] for view in self.models.fusion[fold].heads.views}
        diagnosis = self.models.code.get(fold)
        return embed_case(networks, diagnosis.code if diagnosis else None, images, self.plan)

    @torch.inference_mode()
    def _fused(
        self, fold: str, prepared: dict[str, list[np.ndarray]], row: Row
    ) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
        fusion, found = self.models.fusion[fold], self._embedded(fold, prepared)
        embedded, present = {}, torch.zeros((1, len(fusion.heads.views)), dtype=torch.bool)
        for number, view in enumerate(fusion.heads.views):
            rows = found.embedded.get(view, [])
            present[0, number] = bool(rows)
            nothing = torch.zeros((1, *self.models.diagnosis[view][fold].head.weight.shape))
            embedded[view] = torch.stack(rows).mean(dim=0)[None] if rows else nothing
        gates = None
        if isinstance(fusion, GatedFusion):
            weights = fusion.gates(fusion.heads(embedded), present)[0].numpy()
            gates = {view: weights[:, number] for number, view in enumerate(fusion.heads.views)}
        fused = fusion(embedded, present)
        if code := self.models.code.get(fold):
            fused = code.mix(fused, *code_rows(code.code.views, code.code.width, found.codes))
        logits = fused.numpy()
        table = self.models.tabular.get(fold)
        return (table.mix(logits, [row]) if table else logits)[0], gates
