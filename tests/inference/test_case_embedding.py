"""All volumes of a case at once are what each is alone."""

import torch
from torch.nn import functional as F

from odiff.data.sliding_window import split_tiles
from odiff.inference.case_embedding import embed_case
from odiff.learning.code_model import build_code, one_tile
from odiff.learning.diagnose import build_diagnosis, embed_volume
from odiff.network.diagnosis import FeatureChoice
from odiff.network.registration import outlines, shrunk
from odiff.plan import read_plan


def smooth(seed, shape):
    """A volume (1, 1, z, y, x) of a few blurred cells."""
    cells = torch.rand((1, 1, 3, 5, 5), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(cells, size=shape, mode="trilinear")


def test_a_case_is_embedded_as_its_volumes_are_alone(planned, in_float32):
    """Views of one and of two volumes, one of which is larger than a tile."""
    plan = read_plan(planned / "preprocessed" / "Dataset001_Knee" / "plans.json")
    assert plan.diagnosis.registered
    shapes = {view: plan.views[view].patch_zyx for view in plan.views}
    larger = tuple(2 * size for size in shapes["axial"])
    images = {
        "sagittal": [smooth(0, shapes["sagittal"])[0, 0].numpy()],
        "axial": [smooth(n, shape)[0, 0].numpy() for n, shape in enumerate((shapes["axial"], larger))],
    }
    torch.manual_seed(0)
    networks = {view: build_diagnosis(plan, view, FeatureChoice(10, ("mid",))).eval() for view in shapes}
    code = build_code(plan, ["sagittal", "axial"], 3)
    for view in ("sagittal", "axial"):
        of_other = smooth(7, shapes[view])
        registration, part = networks[view].registration, code.part(view)
        assert registration is not None
        registration.fit(outlines(of_other))
        part.registration.fit(outlines(shrunk(of_other)))
        part.take(torch.zeros(len(part.mean)), torch.randn(len(part.mean), 3))
    found = embed_case(networks, code, images, plan)
    for view, some in images.items():
        for row, image in zip(found.embedded[view], some, strict=True):
            alone = embed_volume(networks[view], split_tiles(image, shapes[view]), plan, view)
            assert torch.allclose(row, alone, atol=1e-3 * alone.abs().max().item())
        for row, image in zip(found.codes[view], some, strict=True):
            assert torch.allclose(row, code(one_tile(image, plan, view), view)[0], atol=1e-3)
    assert set(found.embedded) == set(found.codes) == set(images)
    without = embed_case(networks, None, {"axial": images["axial"][:1]}, plan)
    assert list(without.embedded) == ["axial"] and not without.codes
    assert torch.allclose(without.embedded["axial"][0], found.embedded["axial"][0], rtol=1e-3, atol=1e-4)
