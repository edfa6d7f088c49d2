"""Sentences about a choice: the verdict, and the doubts about it."""

from collections.abc import Mapping, Sequence

from ensemble.candidates.pool import Candidate
from ensemble.choice.result import EnsembleChoice, Method, Scores
from ensemble.statistics.bootstrap import Gain
from mlflow_setup.text import counted

BYTES = 4
"""Bytes of a parameter in float32."""


def name_of(method: Method) -> str:
    """Return a method's display name, e.g. `best single`."""
    return method.value.replace("_", " ")


def doubts(scores: Mapping[Method, Scores], gains: Mapping[Method, Gain]) -> str | None:
    """Return the methods over which the gain of selective on held-out rows is not clear, in words;
    None: it is clear over all."""
    ours, problems = scores[Method.SELECTIVE].held_out, []
    for method, gain in gains.items():
        theirs, name = scores[method].held_out, name_of(method)
        if ours <= theirs:
            problems.append(f"selective ({ours:.4f}) is not above {name} ({theirs:.4f})")
        elif not gain.is_clear:
            problems.append(f"the gain over {name} may be noise: {gain.describe()}")
    return "; ".join(problems) or None


def doubts_by_task(choice: EnsembleChoice) -> dict[str, str | None]:
    """Return the `doubts` of each task, and of `overall`."""
    by_task = {
        name: doubts({m: chosen.scores for m, chosen in task.methods.items()}, task.gains)
        for name, task in choice.tasks.items()
    }
    return {**by_task, "overall": doubts(choice.overall, choice.gains)}


def num_encoders(candidates: Sequence[Candidate]) -> int:
    """Return the number of distinct encoders: several frozen-encoder trials share one, and added
    predictions have none."""
    return len({c.encoder or c.key for c in candidates if not c.is_added})


def size_of(choice: EnsembleChoice, candidates: Sequence[Candidate]) -> str:
    """Return e.g. `2 encoders (94 MB)` or `1 encoder with the heads of 14 runs (155 MB)`; added
    predictions are counted apart."""
    text = _encoders(candidates)
    num_added = sum(candidate.is_added for candidate in candidates)
    num_runs = len(candidates) - num_added
    if num_encoders(candidates) < num_runs:
        text += f" with the heads of {num_runs} runs"
    if num_added:
        text += f" and {counted(num_added, 'added model')}"
    if choice.cost.is_in_parameters:
        text += f" ({choice.cost(candidates) * BYTES / 1e6:.0f} MB)"
    return text


def verdict(
    choice: EnsembleChoice, milliseconds: float | None = None, where: str = "this machine"
) -> str:
    """Return a sentence that says what to ship, its gain, and what more encoders would add.

    Args:
        milliseconds: per sentence, measured on the machine `where`; None: not measured.
    """
    shipped = choice.candidates(Method.SELECTIVE)
    speed = "" if milliseconds is None else f", {milliseconds:.1f} ms a sentence on {where}"
    text = f"ship {size_of(choice, shipped)}{speed}"
    single = choice.one_for_all
    if single is not None and shipped == (single.candidate,):
        text += ": the best single model"
    elif single is not None:
        text += f": {_gain(single.gain)} over the best single model"
    else:
        text += f": {_gain(choice.gains[Method.BEST_SINGLE])} over the best single models"
    more = _more(choice, shipped)
    return text if more is None else f"{text}; {more}"


def _more(choice: EnsembleChoice, shipped: tuple[Candidate, ...]) -> str | None:
    """Return what the best of the more expensive options would add to what ships; None: there is
    no more expensive one."""
    if choice.declined is not None:
        gain = _reversed(choice.declined.gain)
        encoders = _other(choice, choice.declined.candidates, shipped)
        return f"{encoders} would add {_gain(gain)}, which may be noise"
    others = [p for p in (*choice.front, choice.whole) if p.cost > choice.cost(shipped)]
    if not others:
        return None
    best = max(others, key=lambda point: point.scores.held_out)
    gain = _reversed(best.gain)
    if gain.value <= 0:
        largest = max(others, key=lambda point: point.cost)
        return f"{_other(choice, largest.candidates, shipped)} would add nothing"
    text = f"{_other(choice, best.candidates, shipped)} would add {_gain(gain)}"
    if best in choice.front:
        return text
    return f"{text}, but one task would be clearly worse than with its best single model"


def _other(
    choice: EnsembleChoice, candidates: Sequence[Candidate], shipped: Sequence[Candidate]
) -> str:
    """Return e.g. `7 encoders`; with the size where what ships has as many."""
    is_as_many = num_encoders(candidates) == num_encoders(shipped)
    return size_of(choice, candidates) if is_as_many else _encoders(candidates)


def _encoders(candidates: Sequence[Candidate]) -> str:
    return counted(num_encoders(candidates), "encoder")


def _reversed(gain: Gain) -> Gain:
    return Gain(-gain.value, -gain.high, -gain.low)


def _gain(gain: Gain) -> str:
    """Return e.g. `+0.010 [+0.001, +0.021]`."""
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
