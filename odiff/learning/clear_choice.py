"""When one way of diagnosing replaces the usual one: where it is clearly better inside the fold's training cases."""

from collections.abc import Mapping

AUTO = "auto"
MARGIN = 0.03
CASES = 100
STEPS = 200


def clearly_best(scores: Mapping[str, float], usual: str, cases: int) -> str:
    """The name with the highest macro AUROC, if that is clearly above what `usual` has.

    Clearly is `MARGIN`, about one standard error over 100 cases, and more with fewer: closer scores are noise.
    """
    best = max(scores, key=lambda name: scores[name], default=usual)
    margin = MARGIN * (CASES / max(1, cases)) ** 0.5
    return best if scores.get(best, 0.0) > scores.get(usual, 0.5) + margin else usual
