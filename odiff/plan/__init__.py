"""The plan: frozen dataclasses, their JSON, and overrides."""

from odiff.plan.bounds import check_plan
from odiff.plan.files import plan_from_plain, read_plan, write_plan
from odiff.plan.overrides import apply_overrides
from odiff.plan.parse import from_plain, to_plain
from odiff.plan.schema import (
    SCHEMA_VERSION,
    Augmentation,
    Decision,
    DiagnosisRecipe,
    DiffusionPlan,
    FusionRecipe,
    NetworkPlan,
    Normalisation,
    Plan,
    PretrainRecipe,
    SegmentationRecipe,
    ViewPlan,
)

__all__ = [
    "SCHEMA_VERSION",
    "Augmentation",
    "Decision",
    "DiagnosisRecipe",
    "DiffusionPlan",
    "FusionRecipe",
    "NetworkPlan",
    "Normalisation",
    "Plan",
    "PretrainRecipe",
    "SegmentationRecipe",
    "ViewPlan",
    "apply_overrides",
    "check_plan",
    "from_plain",
    "plan_from_plain",
    "read_plan",
    "to_plain",
    "write_plan",
]
