"""What can be read from a network: its blocks, by name, in the order they are computed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """One block of a backbone.

    Parameters
    ----------
    channels : of its activation.
    stage : the entry of the plan's strides whose grid its activation lies on; 0 is right after the stem, None a single position.
    parameters : prefixes of the parameters that it adds to those of the blocks before it.
    """

    channels: int
    stage: int | None
    parameters: tuple[str, ...]
