"""From a pretrained network to the one that is fine-tuned: what is taken over, what is new, what is left behind."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from odiff.errors import CheckpointError
from odiff.learning.run import plan_of_view
from odiff.network.backbone import Backbone, encoder_tensors
from odiff.plan import ViewPlan, to_plain
from odiff.training.checkpoint import Checkpoint, load_weights, read_checkpoint

log = logging.getLogger(__name__)
LEAST_PER_CENT = 95.0
SHOWN = 8


@dataclass(frozen=True)
class Transfer:
    """What config.json tells of a start from pretrained weights; per cent count single parameters.

    `new` names the tensors that start at random, `left_behind` those of the checkpoint that have no place, `differs` the fields of
    the network's plan that are not alike, each as [pretrained, planned].
    """

    dataset: str
    checkpoint: str
    encoder_per_cent: float
    diffusion_network_per_cent: float
    new: tuple[str, ...]
    left_behind: tuple[str, ...]
    differs: dict[str, list[Any]]


def load_backbone(backbone: Backbone, path: Path, planned: ViewPlan) -> Transfer:
    """Load the averaged pretrained weights that fit by name and shape into a diffusion network.

    Raises
    ------
    CheckpointError
        The file is not a pretrained model, or one of another view or normalisation, or less than `LEAST_PER_CENT` of the
        encoder (the blocks down to the middle) fits; the message names both networks.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.meta.get("task") != "pretrain":
        raise CheckpointError(
            f"{path}: is a {checkpoint.meta.get('task')} model, not a pretrained one; give the one in pretrain/"
        )
    if checkpoint.meta["view"] != planned.view:
        raise CheckpointError(
            f"{path}: was pretrained on {checkpoint.meta['view']} volumes, the view is {planned.view}"
        )
    trained = plan_of_view(checkpoint.meta, planned.view)
    if trained.normalisation != planned.normalisation:
        raise CheckpointError(
            f"{path}: its normalisation is {to_plain(trained.normalisation)}, the plan has {to_plain(planned.normalisation)}; "
            "plan this dataset with odiff_plan_and_preprocess --like DATASET"
        )
    own, given = backbone.state_dict(), checkpoint.part("weights.")
    fitting = {name: one for name, one in given.items() if name in own and own[name].shape == one.shape}
    transfer = _compare(backbone, fitting, checkpoint, trained, planned)
    if transfer.encoder_per_cent < LEAST_PER_CENT:
        raise CheckpointError(_misfit(transfer, trained, planned))
    load_weights(backbone, fitting, str(path), new=transfer.new)
    return transfer


def with_head(transfer: Transfer, network: nn.Module) -> Transfer:
    """The same for a network that holds the diffusion network as ``backbone``: everything beside it is new."""
    head = [name for name, _ in network.named_parameters() if not name.startswith("backbone.")]
    return replace(transfer, new=(*head, *(f"backbone.{name}" for name in transfer.new)))


def log_transfer(transfer: Transfer | None, title: str) -> None:
    """Say before the first step what a run starts from."""
    if transfer is None:
        log.info("%s: from scratch, everything is new", title)
        return
    log.info(
        "%s: from %s (%s): %.1f %% of the encoder's parameters taken over, %.1f %% of the whole diffusion network's",
        title, transfer.dataset, transfer.checkpoint, transfer.encoder_per_cent, transfer.diffusion_network_per_cent,
    )  # fmt: skip
    log.info("%s: new, at random: %s", title, _some(transfer.new))
    log.info("%s: left behind: %s", title, _some(transfer.left_behind))
    for field, (trained, planned) in transfer.differs.items():
        log.warning("%s: pretrained with %s %s, planned with %s", title, field, trained, planned)


def _compare(
    backbone: Backbone, fitting: Iterable[str], checkpoint: Checkpoint, trained: ViewPlan, planned: ViewPlan
) -> Transfer:
    sizes = {name: tensor.numel() for name, tensor in backbone.state_dict().items()}
    taken = set(fitting)
    ours, theirs = to_plain(planned.network), to_plain(trained.network)
    return Transfer(
        dataset=checkpoint.meta["plan"]["dataset"], checkpoint=str(checkpoint.path),
        encoder_per_cent=_per_cent(sizes, taken, encoder_tensors(planned.network, sizes)),
        diffusion_network_per_cent=_per_cent(sizes, taken, sizes),
        new=tuple(name for name in sizes if name not in taken),
        left_behind=tuple(name for name in checkpoint.part("weights.") if name not in taken),
        differs={field: [theirs[field], ours[field]] for field in ours if theirs[field] != ours[field]},
    )  # fmt: skip


def _per_cent(sizes: dict[str, int], taken: set[str], wanted: Iterable[str]) -> float:
    names = list(wanted)
    return 100 * sum(sizes[name] for name in names if name in taken) / sum(sizes[name] for name in names)


def _misfit(transfer: Transfer, trained: ViewPlan, planned: ViewPlan) -> str:
    return (
        f"{transfer.checkpoint}: {transfer.encoder_per_cent:.1f} % of the encoder's parameters fit, {LEAST_PER_CENT:g} % are "
        f"needed: its network, of {transfer.dataset}, is {to_plain(trained.network)}, the plan's network is "
        f"{to_plain(planned.network)}; without weights would be {_some(transfer.new)}; plan this dataset with "
        f"odiff_plan_and_preprocess --like {transfer.dataset}"
    )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more, all in config.json" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
