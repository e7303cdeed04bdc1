"""Diagnosing the same patients by several models and with views missing, each scan prepared and embedded once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odiff.dataset import Series
from odiff.geometry import Volume, read_volume
from odiff.inference.predict import by_case, case_rows, find_series
from odiff.inference.predictor import CaseImages, Predictor

# Who looks: a name -> the view that diagnoses (None: the fusion), and the views that are there.
Looks = Mapping[str, tuple[str | None, tuple[str, ...]]]


class Colleague(Predictor):
    """A predictor that shares what it made of the case at hand with others of the same networks, through `memory`."""

    memory: dict[Any, Any]

    def _prepare(self, volume: Volume, view: str, laterality: str | None) -> Any:
        return self._once(
            ("prepared", view, laterality, id(volume)), lambda: Predictor._prepare(self, volume, view, laterality)
        )

    def _embedded(self, fold: str, view: str, image: np.ndarray) -> torch.Tensor:
        return self._once(("embedded", fold, view, id(image)), lambda: Predictor._embedded(self, fold, view, image))

    @torch.inference_mode()
    def _view_logits(self, view: str, images: Any) -> np.ndarray:
        if self.plan.views[view].mirror_axes:
            return super()._view_logits(view, images)
        found = [
            network.head.classify(self._embedded(fold, view, image)[None].to(self.device))[0].float().cpu().numpy()
            for fold, network in self.models.diagnosis[view].items()
            for image in images
        ]
        return np.mean(found, axis=0)

    def _once(self, key: Any, make: Any) -> Any:
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]


def diagnose(
    model: Path, source: Path, cases_file: Path, looks: Looks, label_fraction: float, device: torch.device
) -> dict[str, dict[str, dict[str, float]]]:  # fmt: skip
    """Probabilities by look, case and label of the patients of a folder of images."""
    predictors = {
        by: Colleague(model, tasks=("diagnosis",), diagnose_by=by, label_fraction=label_fraction, device=device)
        for by in {by for by, _ in looks.values()}
    }
    memory: dict[Any, Any] = {}
    for predictor in predictors.values():
        predictor.memory = memory
    plan = next(iter(predictors.values())).plan
    rows = case_rows(source, cases_file, plan)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in looks}
    for case, members in by_case(find_series(source, plan)):
        memory.clear()
        volumes = volumes_of(members, {view for _, views in looks.values() for view in views})
        for name, (by, views) in looks.items():
            seen = {view: volumes[view] for view in views}
            found[name][case] = predictors[by].diagnose(CaseImages(seen, rows[case].laterality)).probabilities
    return found


def volumes_of(members: list[Series], views: set[str]) -> dict[str, tuple[Volume, ...]]:
    """The volumes of a case by view."""
    return {view: tuple(read_volume(one.image) for one in members if one.view == view) for view in views}
