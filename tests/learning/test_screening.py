"""Labels are found where they were planted."""

import numpy as np
import pytest
import torch
from scipy import stats

from odiff.learning.screening import point_head, welch
from odiff.learning.warm_up import CachedFeatures, fit_norms
from odiff.network.heads import DiagnosisHead

GRID = (8, 12, 12)


def planted(cases: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, brighter in a few cells of the cases whose first label is 1; the second label means nothing."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((cases, 3, *GRID), generator=generator)
    targets = torch.randint(0, 2, (cases, 2), generator=generator).float()
    features[:, 1, 1:4, 2:5, 3:6] += 2 * targets[:, 0, None, None, None]
    targets[0, 1] = float("nan")
    return features, targets


def test_the_prior_points_to_the_planted_lesion_and_cases_are_ranked_before_any_training():
    torch.manual_seed(0)
    features, targets = planted()
    head = DiagnosisHead({"mid": (3, GRID)}, 2, 0.0).eval()
    point_head(head, CachedFeatures({"mid": features}, torch.arange(len(features)), targets))
    place = np.unravel_index(int(head.pools["mid"].prior[0].argmax()), GRID)
    assert np.abs(np.array(place) - (2, 3, 4)).max() <= 1
    logits = head({"mid": features})[:, 0].detach().numpy()
    truth = targets[:, 0].numpy() == 1
    assert stats.mannwhitneyu(logits[truth], logits[~truth]).statistic / (truth.sum() * (~truth).sum()) > 0.75


def test_a_lesion_in_a_quiet_channel_is_heard_beside_loud_ones():
    torch.manual_seed(0)
    features, targets = planted()
    features[:, 0] = 20 * features[:, 0] + 500
    features[:, 2] = 3.0
    head = DiagnosisHead({"mid": (3, GRID)}, 2, 0.0).eval()
    cached = CachedFeatures({"mid": features}, torch.arange(len(features)), targets)
    fit_norms(head, cached)
    normed = head.pools["mid"].channel_norm(features)
    assert torch.allclose(normed[:, :2].mean(dim=(0, 2, 3, 4)), torch.zeros(2), atol=1e-3)
    assert normed[:, :2].std(dim=(0, 2, 3, 4)).tolist() == pytest.approx([1, 1], abs=0.01)
    # a channel that is silent may speak up later: it must not be louder then than thirty times what it is beside the others
    loudest = features.var(dim=(0, 2, 3, 4), correction=0).mean().sqrt()
    assert not normed[:, 2].any() and head.pools["mid"].channel_norm.scale[2] == pytest.approx(
        float(30 / loudest), rel=1e-3
    )
    point_head(head, cached)
    logits = head({"mid": features})[:, 0].detach().numpy()
    truth = targets[:, 0].numpy() == 1
    assert stats.mannwhitneyu(logits[truth], logits[~truth]).statistic / (truth.sum() * (~truth).sum()) > 0.75


def test_t_values_agree_with_scipy():
    torch.manual_seed(0)
    features, targets = planted()
    pool = DiagnosisHead({"mid": (3, GRID)}, 2, 0.0).pools["mid"]
    ours = welch(pool, features, targets)[1]
    with torch.no_grad():
        hidden = pool.hidden(features).numpy()
    known = targets[:, 1].numpy()
    theirs = stats.ttest_ind(hidden[known == 1], hidden[known == 0], equal_var=False).statistic
    assert np.allclose(ours.numpy(), theirs, rtol=0.05, atol=0.05)


def test_labels_with_too_few_cases_keep_their_start():
    features, targets = planted()
    targets[:, 1] = 0
    head = DiagnosisHead({"mid": (3, GRID)}, 2, 0.0)
    before = head.weight[1].clone()
    point_head(head, CachedFeatures({"mid": features}, torch.arange(len(features)), targets))
    assert torch.equal(head.weight[1], before)
    assert not head.pools["mid"].prior[1].any()
