"""What one call of odiff_train works on, read once and checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from odiff.data.index import PreparedCase, PreparedDataset, read_index
from odiff.data.recipe import check_recipe
from odiff.dataset import Split, find_dataset, read_splits
from odiff.errors import DatasetError, PlanError, UsageError
from odiff.learning.pretrained import ResultsFolder
from odiff.network.backbone import block_names
from odiff.network.baselines import with_baseline
from odiff.plan import Plan, read_plan
from odiff.plan.parse import closest
from odiff.vocabulary import FUSED

PLANS, SPLITS = "plans.json", "splits_final.json"
ALL = "all"


@dataclass(frozen=True)
class Context:
    """A preprocessed dataset, its plan with the ``--set`` overrides of this call, its folds, and where results go."""

    folder: Path
    plan: Plan
    dataset: PreparedDataset
    splits: tuple[Split, ...]
    results: ResultsFolder
    results_root: Path
    overrides: tuple[str, ...] = ()

    def prepared(self, view: str) -> Path:
        """The folder of a view's arrays."""
        return self.folder / f"{self.plan.name}_{view}"

    def with_fraction(self, label_fraction: float) -> "Context":
        """The same, with the results of runs that learn from that share of the labels."""
        return replace(self, results=replace(self.results, label_fraction=label_fraction))

    def view_plan_exists(self, view: str) -> None:
        """Raise a `UsageError` where the plan has no such view."""
        if view != FUSED and view not in self.plan.views:
            raise UsageError(f"view {view!r}: not in the plan{closest(view, [*self.plan.views, FUSED])}")

    def cases_of_fold(self, fold: str, part: str) -> tuple[PreparedCase, ...]:
        """The cases of one side of a fold; fold ``all`` trains on everything and validates nothing."""
        if fold == ALL:
            return self.dataset.cases if part == "train" else ()
        names = set(self.splits[int(fold)][part])
        return tuple(case for case in self.dataset.cases if case.name in names)

    def fold_names(self, wanted: str | None) -> list[str]:
        """The folds to train.

        Raises
        ------
        UsageError
            There is no such fold.
        """
        if wanted == ALL:
            return [ALL]
        if not self.splits:
            raise DatasetError(
                f"{self.dataset.name}: folds need labelled cases of two patients or more; add some, or train with --fold all"
            )
        known = [str(number) for number in range(len(self.splits))]
        if wanted is None:
            return known
        if wanted not in known:
            raise UsageError(f"--fold {wanted}: there are folds 0 to {len(self.splits) - 1}, and all")
        return [wanted]


def open_context(
    preprocessed: Path, results: Path, wanted: str, overrides: Sequence[str] = (), baseline: str | None = None
) -> Context:
    """Read plan, index and splits of a dataset.

    Parameters
    ----------
    baseline : a network of `odiff.network.baselines` in place of the plan's; its results go to ``<plan>_<baseline>``.

    Raises
    ------
    PlanError
        The dataset was not planned yet, or preprocessed with another plan; the message names odiff_plan_and_preprocess.
    """
    try:
        folder = find_dataset(preprocessed, wanted)
    except DatasetError as error:
        raise PlanError(f"{error}; plan it first: odiff_plan_and_preprocess -d {wanted}") from None
    if not (folder / PLANS).exists():
        raise PlanError(f"{folder / PLANS}: not found; plan first: odiff_plan_and_preprocess -d {wanted}")
    plan = read_plan(folder / PLANS, overrides)
    dataset = read_index(folder)
    for view, one in plan.views.items():
        check_recipe(folder / f"{plan.name}_{view}", plan, view)
        if strange := set(one.diffusion.probe_blocks) - set(block_names(one.network)):
            known = ", ".join(block_names(one.network))
            raise PlanError(
                f"views.{view}.diffusion.probe_blocks: no block {min(strange)!r} in the network; there are {known}"
            )
    splits: tuple[Split, ...] = ()
    if (folder / SPLITS).exists():
        patients = {case.name: case.patient for case in dataset.cases}
        splits = tuple(read_splits(folder / SPLITS, patients, dataset.skipped))
    name = plan.name if baseline is None else f"{plan.name}_{baseline}"
    used = plan if baseline is None else with_baseline(plan, baseline)
    where = ResultsFolder(results / folder.name / name)
    return Context(folder, used, dataset, splits, where, results, tuple(overrides))
