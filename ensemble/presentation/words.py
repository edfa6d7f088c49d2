"""A choice in sentences: the verdict, and the reasons for it."""

from collections.abc import Mapping, Sequence

from ensemble.candidates.pool import Candidate
from ensemble.choice.result import EnsembleChoice, Method, Point, Scores
from ensemble.statistics.bootstrap import Gain

BYTES = 4
"""Of a parameter in float32."""


def name_of(method: Method) -> str:
    """`best single`."""
    return method.value.replace("_", " ")


def doubts(scores: Mapping[Method, Scores], gains: Mapping[Method, Gain]) -> str | None:
    """Said where selective is not clearly above the others on held-out rows; None: it is."""
    ours, said = scores[Method.SELECTIVE].held_out, []
    for method, gain in gains.items():
        theirs = scores[method].held_out
        if ours <= theirs:
            said.append(f"selective ({ours:.4f}) is not above {name_of(method)} ({theirs:.4f})")
        elif not gain.is_clear:
            said.append(f"the gain over {name_of(method)} may be noise: {gain.describe()}")
    return "; ".join(said) or None


def doubts_by_task(choice: EnsembleChoice) -> dict[str, str | None]:
    """Task, then `overall` -> `doubts`."""
    by_task = {
        name: doubts({m: chosen.scores for m, chosen in task.methods.items()}, task.gains)
        for name, task in choice.tasks.items()
    }
    return {**by_task, "overall": doubts(choice.overall, choice.gains)}


def num_encoders(candidates: Sequence[Candidate]) -> int:
    """Distinct ones: the heads of several probes may stand on one."""
    return len({candidate.encoder or candidate.key for candidate in candidates})


def size_of(choice: EnsembleChoice, candidates: Sequence[Candidate]) -> str:
    """`2 encoders (94 MB)`, or `1 encoder with the heads of 14 runs (155 MB)`."""
    count = num_encoders(candidates)
    words = f"{count} encoder{'s' * (count != 1)}"
    if count < len(candidates):
        words += f" with the heads of {len(candidates)} runs"
    if choice.cost.is_in_parameters:
        words += f" ({choice.cost(candidates) * BYTES / 1e6:.0f} MB)"
    return words


def verdict(
    choice: EnsembleChoice, milliseconds: float | None = None, where: str = "this machine"
) -> str:
    """What to ship, what that gains, and what more of it would add.

    Args:
        milliseconds: that a sentence takes there; None: not measured.
    """
    shipped = choice.candidates(Method.SELECTIVE)
    speed = "" if milliseconds is None else f", {milliseconds:.1f} ms a sentence on {where}"
    said = f"ship {size_of(choice, shipped)}{speed}"
    single = choice.one_for_all
    if single is not None and shipped == (single.candidate,):
        said += ": the best single model"
    elif single is not None:
        said += f": {_gain(single.gain)} over the best single model"
    else:
        said += f": {_gain(choice.gains[Method.BEST_SINGLE])} over the best single models"
    more = _more(choice, shipped)
    return said if more is None else f"{said}; {more}"


def _more(choice: EnsembleChoice, shipped: tuple[Candidate, ...]) -> str | None:
    """The gain of the most expensive level of the front over what ships."""
    if choice.declined is not None:
        gain = _reversed(choice.declined.gain)
        return f"{_count(choice.declined)} would add {_gain(gain)}, which may be noise"
    others = [p for p in (*choice.front, choice.whole) if p.cost > choice.cost(shipped)]
    if not others:
        return None
    best = max(others, key=lambda point: point.scores.held_out)
    gain = _reversed(best.gain)
    if gain.value <= 0:
        return f"{_count(max(others, key=lambda point: point.cost))} would add nothing"
    said = f"{_count(best)} would add {_gain(gain)}"
    if best in choice.front:
        return said
    return f"{said}, but one task would be clearly worse than by its best single model"


def _count(point: Point) -> str:
    count = num_encoders(point.candidates)
    return f"{count} encoder{'s' * (count != 1)}"


def _reversed(gain: Gain) -> Gain:
    return Gain(-gain.value, -gain.high, -gain.low)


def _gain(gain: Gain) -> str:
    """`+0.010 [+0.001, +0.021]`."""
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
