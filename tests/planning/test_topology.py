"""The planner's arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odiff.experiment_planning.topology import StemLimits, bottleneck, fit_patch, halvings, plan_channels, plan_topology


def test_a_thirty_slice_knee_of_3_5_mm_keeps_four_slices_at_the_bottleneck():
    patch = (30, 320, 320)
    topology = plan_topology(patch, (3.5, 0.5, 0.5), StemLimits())
    assert topology.stem_zyx == (1, 4, 4)
    assert bottleneck(patch, topology)[0] >= 4


def test_thick_slices_are_not_halved_before_the_plane_is_as_coarse():
    topology = plan_topology((16, 128, 128), (20.0, 1.0, 1.0), StemLimits())
    assert topology.strides_zyx[1] == (1, 2, 2)
    assert topology.kernels_zyx[0] == (1, 3, 3)


@pytest.mark.parametrize(("slices_mm", "first"), [(4.5, (1, 3, 3)), (3.5, (3, 3, 3)), (2.4, (3, 3, 3))])
def test_the_first_stage_joins_slices_only_where_its_pixels_are_nearly_as_coarse(slices_mm, first):
    topology = plan_topology((16, 256, 256), (slices_mm, 0.6, 0.6), StemLimits())
    assert topology.stem_zyx == (1, 4, 4)
    assert topology.kernels_zyx[:2] == (first, (3, 3, 3))


@given(
    st.tuples(st.integers(1, 60), st.integers(8, 400), st.integers(8, 400)),
    st.tuples(st.floats(0.3, 20), st.floats(0.2, 3), st.floats(0.2, 3)),
)
def test_no_axis_is_ever_halved_against_the_rule(patch, spacing):
    topology = plan_topology(patch, spacing, StemLimits())
    sizes = [n / s for n, s in zip(patch, topology.stem_zyx, strict=True)]
    current = [v * s for v, s in zip(spacing, topology.stem_zyx, strict=True)]
    for stride in topology.strides_zyx[1:]:
        for axis in range(3):
            if stride[axis] == 2:
                assert current[axis] <= 2 * min(current)
                assert sizes[axis] / 2 >= 4
        sizes = [n / s for n, s in zip(sizes, stride, strict=True)]
        current = [v * s for v, s in zip(current, stride, strict=True)]
    assert len(topology.strides_zyx) == 6 or halvings(tuple(sizes), tuple(current)) == (1, 1, 1)


@given(st.tuples(*[st.integers(1, 400)] * 3), st.tuples(*[st.sampled_from([1, 2, 4, 8, 16])] * 3))
def test_patches_are_multiples_that_lose_at_most_five_percent(patch, divisor):
    fitted = fit_patch(patch, divisor)
    for wanted, got, step in zip(patch, fitted, divisor, strict=True):
        assert got % step == 0
        assert 0.95 * wanted <= got < wanted + step


def test_widths_are_multiples_of_32_up_to_the_largest():
    assert plan_channels(5, 32, 320) == (32, 64, 128, 256, 320)
    assert plan_channels(2, 48, 320) == (32, 96)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (1.0, 1.0, 1.0)])
def test_isotropic_volumes_are_halved_along_all_axes_at_once(spacing):
    topology = plan_topology((64, 64, 64), spacing, StemLimits())
    after_stem = [a * b for a, b in zip(spacing, topology.stem_zyx, strict=True)]
    if len(set(after_stem)) == 1:
        assert topology.strides_zyx[1] == (2, 2, 2)


def test_thin_slices_go_into_the_stem_and_thick_ones_do_not():
    assert plan_topology((160, 384, 384), (0.7, 0.365, 0.365), StemLimits()).stem_zyx == (2, 4, 4)
    assert plan_topology((40, 320, 320), (2.5, 0.5, 0.5), StemLimits()).stem_zyx == (1, 4, 4)
    assert plan_topology((80, 80, 80), (1.5, 1.5, 1.5), StemLimits()).stem_zyx == (1, 1, 1)
