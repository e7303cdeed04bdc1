"""The three uses as functions: score predictions, score what cross-validation left, compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odiff import __version__
from odiff.geometry import VIEWS
from odiff.inference.evaluate.best import Choice, choose, predict_commands
from odiff.inference.evaluate.compare import compare_folders
from odiff.inference.evaluate.conclusion import conclusion
from odiff.inference.evaluate.cross_validation import Variant, collect_variants, labels_to_clean, read_prepared
from odiff.inference.evaluate.plots import draw_plots
from odiff.inference.evaluate.references import References, collect
from odiff.inference.evaluate.report import as_csv, as_text, comparison_text
from odiff.inference.evaluate.summary import SEED, summarise
from odiff.inference.evaluate.tables import Evaluation, write_tables
from odiff.inference.postprocessing import decided_before, write_postprocessing
from odiff.learning.pretrained import ResultsFolder
from odiff.metrics.bootstrap import REPEATS
from odiff.plan import to_plain
from odiff.storage import write_json, write_text
from odiff.vocabulary import EVALUATION

SUMMARY, SCORES_TABLE, COMPARISON = "summary.json", "scores.csv", "comparison.json"
Say = Callable[[str], object]


@dataclass(frozen=True)
class EvaluateOptions:
    """The flags of odiff_evaluate that are not paths."""

    allow_missing: bool = False
    processes: int = 1
    repeats: int = REPEATS


def evaluate_predictions(
    predictions: Path, references: References, output: Path, options: EvaluateOptions, say: Say
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Score the predictions of odiff_predict; summary.json, scores.csv, one CSV per task and plots go to `output`.

    Returns
    -------
    What summary.json holds, and one message per file that could not be read.

    Raises
    ------
    DatasetError
        As `odiff.inference.evaluate.references.collect`.
    """
    found = collect(predictions, references, options.allow_missing, options.processes)
    about = {
        "predictions": str(predictions),
        "references": str(references.labels) if references.labels else None,
        "notes": [*found.notes, *(f"failed: {message}" for message in found.failed)],
    }
    summary = write_evaluation(output, found.evaluation, about, options.repeats)
    for note in found.notes:
        say(f"note: {note}\n")
    say(as_text(summary) + f"-> {output}\n")
    return summary, found.failed


def write_evaluation(folder: Path, evaluation: Evaluation, about: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Write the scores of one set of predictions; what summary.json holds."""
    summary = {"odiff": __version__, **about, "bootstrap": _bootstrap(repeats), **summarise(evaluation, repeats)}
    write_tables(folder, evaluation)
    draw_plots(folder, evaluation)
    write_text(folder / SCORES_TABLE, as_csv({"": summary}))
    write_json(folder / SUMMARY, summary)
    return summary


def _bootstrap(repeats: int) -> dict[str, Any]:
    return {"unit": "patient", "repeats": repeats, "seed": SEED, "interval": "95 % percentile"}


def evaluate_cross_validation(
    preprocessed: Path, results: Path, options: EvaluateOptions, say: Say, results_flag: str | None = None
) -> dict[str, Any]:
    """Score every variant out of fold, choose the best, decide on post-processing, and say what to predict with.

    Parameters
    ----------
    preprocessed, results : the folders of the dataset.
    results_flag : what ``--results`` named, for the command that is printed.

    Returns
    -------
    What ``evaluation/summary.json`` holds.
    """
    variants, notes = collect_variants(results, read_prepared(preprocessed), options.processes)
    output = results / EVALUATION
    scored = {}
    for one in variants:
        about: dict[str, Any] = {
            "plan": one.plan,
            "view": one.view,
            "fusion": one.fusion,
            "kind": "out of fold",
            "notes": [],
        }
        scored[one.name] = write_evaluation(output / one.plan / one.view, one.evaluation, about, options.repeats)
        say(f"{one.name}\n{as_text(scored[one.name])}\n")
    decided = decide_postprocessing(variants)
    found = {task: choose(variants, task, options.repeats) for task in ("segmentation", "diagnosis")}
    choices = {task: choice for task, choice in found.items() if choice is not None}
    commands = predict_commands(choices, results.name, results_flag)
    summary = {
        "odiff": __version__, "dataset": results.name, "notes": notes, "bootstrap": _bootstrap(options.repeats),
        "choices": {task: _as_plain(choice) for task, choice in choices.items()},
        "postprocessing": decided, "commands": commands,
    }  # fmt: skip
    write_text(output / SCORES_TABLE, as_csv(scored))
    write_json(output / SUMMARY, summary)
    for note in notes:
        say(f"note: {note}\n")
    say(conclusion(choices, decided, commands) + f"-> {output}\n")
    return summary


def decide_postprocessing(variants: Sequence[Variant]) -> dict[str, Any]:
    """Write postprocessing.json into every plan's folder; by plan, view and label, Dice without and with the step.

    What was decided of a view that was passed over now stays.
    """
    decided: dict[str, Any] = {}
    for one in variants:
        if one.gain:
            decided.setdefault(one.plan, {})[one.view] = {
                label: {"dice": before, "largest_component_dice": after, "is_kept": label in labels_to_clean(one.gain)}
                for label, (before, after) in one.gain.items()
            }
    for plan, views in decided.items():
        folder = next(one.folder for one in variants if one.plan == plan)
        kept = {view: tuple(name for name, one in labels.items() if one["is_kept"]) for view, labels in views.items()}
        trained = [view for view in VIEWS if ResultsFolder(folder).folds(view, "segmentation")]
        earlier = {view: names for view, names in decided_before(folder).items() if view in trained}
        write_postprocessing(folder, earlier | kept)
    return decided


def _as_plain(choice: Choice) -> dict[str, Any]:
    ranked = [
        {
            "variant": one.variant.name, "plan": one.variant.plan, "view": one.variant.view, "fusion": one.variant.fusion,
            "patients": one.patients, f"macro_{choice.score}": one.score, "note": one.note or None,
        }
        for one in choice.ranked
    ]  # fmt: skip
    best = choice.best.name if choice.best else None
    return {"best": best, "patients": choice.patients, "to_runner_up": to_plain(choice.difference), "ranked": ranked}


def compare(folders: Sequence[Path], output: Path | None, repeats: int, say: Say) -> list[dict[str, Any]]:
    """Test the first evaluation against the others; comparison.json goes to `output`, where one is given."""
    found = compare_folders(folders, repeats)
    for one in found:
        say(comparison_text(one) + "\n")
    if output is not None:
        write_json(output / COMPARISON, {"bootstrap": _bootstrap(repeats), "comparisons": found})
        say(f"-> {output / COMPARISON}\n")
    return found
