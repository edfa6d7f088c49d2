"""Plant faults in the modules that decide numbers, and see whether their tests notice.

    python tests/mutants/run.py                                  every module
    python tests/mutants/run.py --module trainable.model.heads   one of them; may be repeated
    python tests/mutants/run.py --number 5 --seed 1              other mutants, and fewer

Each mutant meets its module's mirrored test file (`trainable/model/heads.py` and
`tests/trainable/model/test_heads.py`), then the rest of that folder; the first failure ends it.
What has been judged is kept in `build/mutants.jsonl`, and not judged again unless the module has
changed or `--survivors` asks for those that had survived. Ends with 1 where one survives that
`survivors.yaml` does not list with the reason.
"""

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from forks import baseline, judge, preload
from mutators import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "mutants.jsonl"
SURVIVORS = Path(__file__).with_name("survivors.yaml")
NUMBER = 12
"""Mutants of a module, at most, drawn with the seed."""
SLACK, SECONDS = 4, 10.0
"""How many times the time of its tests a mutant may take, beside so many seconds."""

TARGETS = (
    *(f"trainable.losses.{n}" for n in ("ranking", "simcse", "task", "distillation", "smart")),
    *("trainable.losses.objective", "trainable.model.heads", "trainable.batches.sampler"),
    *(f"trainable.training.{name}" for name in ("learner", "stages", "optimizer")),
    "trainable.evaluation.metrics",
    *(f"ensemble.selection.{name}" for name in ("greedy", "rules", "combine")),
    *("ensemble.statistics.bootstrap", "ensemble.statistics.dev_splits"),
    "search.algorithms.rungs",
)


@dataclass(frozen=True)
class Result:
    """A mutant and what became of it; a line of the results."""

    module: str
    digest: str  # of the module's source
    function: str
    operator: str
    before: str
    after: str
    line: int
    outcome: str  # killed, survived or timeout
    by: str
    seconds: float

    @property
    def key(self) -> str:
        return f"{self.function}: {self.before} -> {self.after}"


def tests_of(root: Path, module: str) -> list[tuple[list[str], list[str]]]:
    """The mirrored file, then its folder without it: what to run, and what to leave out."""
    *rooms, name = module.split(".")
    folder = Path("tests", *rooms)
    mirrored = folder / f"test_{name}.py"
    stages = [([str(mirrored)], [])] if (root / mirrored).is_file() else []
    left = [path for path in (root / folder).glob("test_*.py") if path.name != mirrored.name]
    if left:
        stages.append(([str(folder)], [str(mirrored)]))
    return stages


def run_module(
    given: argparse.Namespace, module: str, drawn: Sequence[Mutant], digest: str
) -> None:
    """Judge mutants of one module, each put down as soon as it is judged."""
    due = tests_of(given.root, module)[: 1 if given.mirrored else None]
    limits: list[float] = []  # of processor time, once the tests have run without a mutant
    for mutant in drawn:
        for number, (tests, ignored) in enumerate(due):
            if number == len(limits):
                limits.append(time_limit(given.root, tests, ignored, given.seconds))
            stage = tests, ignored, limits[number]
            verdict = judge(given.root, module, mutant.source, *stage)
            if verdict.outcome != "survived":
                break
        fault = {k: v for k, v in asdict(mutant).items() if k != "source"}
        result = Result(module, digest, **fault, **asdict(verdict))
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(f"{module} {result.outcome:8} {result.seconds:5.1f} s  {mutant.key}", flush=True)


def time_limit(root: Path, tests: Sequence[str], ignored: Sequence[str], seconds: float) -> float:
    """What the tests take as they are, times `SLACK`; their packages are imported on the way."""
    found = baseline(root, tests, ignored)
    if found.failed:
        raise SystemExit(f"fails without a mutant: {', '.join(found.failed)}")
    preload(found.third_party)
    return SLACK * found.cpu_seconds + seconds


def read(results: Path) -> dict[tuple[str, str, str], Result]:
    """By module, digest and key; the newest of several."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    found = [Result(**json.loads(line)) for line in lines]
    return {(one.module, one.digest, one.key): one for one in found}


def table(judged: Iterable[Result], accepted: dict[str, list[dict[str, str]]]) -> tuple[str, int]:
    """By module: how many were killed, how many survived; and how many of these are not listed."""
    by_module: dict[str, list[Result]] = {}
    for result in judged:
        by_module.setdefault(result.module, []).append(result)
    by_module["all"] = [result for results in by_module.values() for result in results]
    lines, unlisted = ["| module | mutants | killed | survived | listed with a reason |"], 0
    lines.append("|---|---|---|---|---|")
    for module, results in by_module.items():
        left = [result for result in results if result.outcome == "survived"]
        listed = [result for result in left if is_listed(result, accepted)]
        killed = len(results) - len(left)
        share = f"{killed} ({100 * killed / len(results):.0f} %)" if results else "0"
        lines.append(f"| {module} | {len(results)} | {share} | {len(left)} | {len(listed)} |")
        unlisted = len(left) - len(listed)  # the last row has them all
    return "\n".join(lines), unlisted


def is_listed(result: Result, accepted: dict[str, list[dict[str, str]]]) -> bool:
    entries = accepted.get(result.module) or []
    return any(
        (one["in"], one["before"], one["after"]) == (result.function, result.before, result.after)
        for one in entries
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--module", action="append", help="one of them; may be repeated")
    parser.add_argument("--number", type=int, default=NUMBER, help="mutants of a module, at most")
    parser.add_argument("--seed", type=int, default=0, help="of which are drawn")
    parser.add_argument("--survivors", action="store_true", help="judge them again")
    parser.add_argument("--mirrored", action="store_true", help="the mirrored file alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="beside the tests' own")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(words)
    accepted: dict[str, Any] = yaml.safe_load(SURVIVORS.read_text(encoding="utf-8")) or {}
    given.results.parent.mkdir(parents=True, exist_ok=True)
    keys = []
    for module in given.module or TARGETS:
        path = given.root.joinpath(*module.split(".")).with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        mutants = mutants_of(source)
        draw = random.Random(f"{given.seed} {module}")
        drawn = draw.sample(mutants, len(mutants))[: given.number]  # more are those and others
        keys += [(module, digest, mutant.key) for mutant in drawn]
        known = read(given.results)
        due = [m for m in drawn if is_due(known.get((module, digest, m.key)), given.survivors)]
        if due:
            run_module(given, module, due, digest)
    known = read(given.results)
    text, unlisted = table([known[key] for key in dict.fromkeys(keys)], accepted)
    print(text)
    return 1 if unlisted else 0


def is_due(known: Result | None, survivors: bool) -> bool:
    return known is None or (survivors and known.outcome == "survived")


if __name__ == "__main__":
    sys.exit(main())
