"""A joint phantom: studies with known structures and known abnormalities, made from a seed."""

from odiff.phantom.study import JOINTS, PHANTOM_VERSION, Joint, PhantomSeries, Study, make_study
from odiff.phantom.writer import write_phantom_dataset

__all__ = ["JOINTS", "PHANTOM_VERSION", "Joint", "PhantomSeries", "Study", "make_study", "write_phantom_dataset"]
