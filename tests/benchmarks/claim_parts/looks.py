"""Diagnosing the same patients by several models and with views missing, each scan prepared and embedded once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from odiff.data.sliding_window import joined_tiles, split_tiles
from odiff.dataset import Series
from odiff.geometry import Volume, read_volume
from odiff.inference.case_embedding import CaseEmbedding, Images
from odiff.inference.input_folder import by_case, case_rows, find_series
from odiff.inference.predictor import CaseImages, Predictor
from odiff.learning.code_model import one_tile
from odiff.learning.diagnose import embed_tiles
from odiff.network.diagnosis import DiagnosisNetwork
from odiff.network.registration import shrunk
from odiff.network.shared_code import ViewCode
from odiff.plan import Plan

# Who looks: a name -> the view that diagnoses (None: the fusion), and the views that are there.
MakeRows = Callable[[list[np.ndarray]], torch.Tensor]
AT_ONCE = 32
Looks = Mapping[str, tuple[str | None, tuple[str, ...]]]


class Colleague(Predictor):
    """A predictor that shares what it made of the case at hand with others of the same networks, through `memory`."""

    memory: dict[Any, Any]

    def _prepared(self, volume: Volume, plan: Plan, view: str, laterality: str | None) -> Any:
        key = ("prepared", view, laterality, id(volume))
        return self._once(key, lambda: Predictor._prepared(self, volume, plan, view, laterality))

    def _embedded(self, fold: str, images: Images) -> CaseEmbedding:
        """What `look_ahead` made of them."""

        def kept(what: str, views: Sequence[str]) -> dict[str, list[torch.Tensor]]:
            return {v: [self.memory[what, fold, v, id(one)] for one in images[v]] for v in views if v in images}

        code = self.models.code.get(fold)
        views = self.models.fusion[fold].heads.views
        return CaseEmbedding(kept("embedded", views), kept("code", code.code.views if code else ()))

    def look_ahead(self, cases: Sequence[CaseImages]) -> None:
        """Embed all scans of some cases together, which a GPU does nearly as fast as one."""
        for view, networks in self.models.diagnosis.items():
            images = [
                self._prepared(one, self.plan, view, side).image
                for case in cases
                for side in self._sides(case)
                for one in case.volumes.get(view, ())
            ]
            for fold, network in networks.items():
                self._remember("embedded", fold, view, images, partial(self._embeddings, network, view))
            for fold, diagnosis in self.models.code.items():
                if view in diagnosis.code.views:
                    self._remember("code", fold, view, images, partial(self._codes, diagnosis.code.part(view), view))

    def _remember(self, what: str, fold: str, view: str, images: list[np.ndarray], make: MakeRows) -> None:
        """Keep a row for each image, unless a colleague with the same networks did."""
        if images and (what, fold, view, id(images[0])) not in self.memory:
            self.memory |= {(what, fold, view, id(one)): row for one, row in zip(images, make(images), strict=True)}

    def _embeddings(self, network: DiagnosisNetwork, view: str, images: list[np.ndarray]) -> torch.Tensor:
        tiles = [split_tiles(image, self.plan.views[view].patch_zyx) for image in images]
        return embed_tiles(network, *joined_tiles(tiles), len(images), self.plan, view).cpu()

    def _codes(self, part: ViewCode, view: str, images: list[np.ndarray]) -> torch.Tensor:
        seen = torch.cat([shrunk(one_tile(one, self.plan, view)) for one in images]).to(self.device)
        found: torch.Tensor = part.to(self.device)(seen).cpu()
        part.cpu()
        return found

    @torch.inference_mode()
    def _view_logits(self, view: str, images: Any) -> np.ndarray:
        if self.plan.views[view].mirror_axes:
            return super()._view_logits(view, images)
        found = [
            self._classified(network, self.memory["embedded", fold, view, id(image)])
            for fold, network in self.models.diagnosis[view].items()
            for image in images
        ]
        return np.mean(found, axis=0)

    def _classified(self, network: DiagnosisNetwork, row: torch.Tensor) -> np.ndarray:
        logits: np.ndarray = network.head.classify(row[None].to(self.device))[0].float().cpu().numpy()
        return logits

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
    waiting = list(by_case(find_series(source, plan)))
    wanted = {view for _, views in looks.values() for view in views}
    for first in range(0, len(waiting), AT_ONCE):
        memory.clear()
        some = {
            case: CaseImages(volumes_of(members, wanted), rows[case].laterality)
            for case, members in waiting[first : first + AT_ONCE]
        }
        for predictor in predictors.values():
            predictor.look_ahead(list(some.values()))
        for case, images in some.items():
            for name, (by, views) in looks.items():
                seen = {view: images.volumes[view] for view in views}
                found[name][case] = predictors[by].diagnose(CaseImages(seen, images.laterality)).probabilities
    return found


def volumes_of(members: list[Series], views: set[str]) -> dict[str, tuple[Volume, ...]]:
    """The volumes of a case by view."""
    return {view: tuple(read_volume(one.image) for one in members if one.view == view) for view in views}
