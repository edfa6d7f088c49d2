"""Mutation testing of the modules that compute losses, metrics and ensembles.

    python tests/mutants/run.py                                  every module
    python tests/mutants/run.py --module trainable.model.heads   one module; may be repeated
    python tests/mutants/run.py --number 5 --seed 1              other and fewer mutants

Each mutant is tested by its module's test file (for `trainable/model/heads.py`:
`tests/trainable/model/test_heads.py`), then by the other tests in that folder, until the first
failure. Results are stored in `build/mutants.jsonl`; a mutant is tested again only if its module
has changed, or if it survived and `--survivors` is given. The exit code is 1 if a mutant survives
that `survivors.yaml` does not list.
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
"""Maximum number of mutants per module, sampled with the seed."""
SLACK, SECONDS = 4, 10.0
"""The time limit of a mutant: a multiple of the time of its tests, plus some seconds."""

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
    """A mutant and its result; a line of the results file."""

    module: str
    digest: str  # of the module's unchanged source
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
    """A module's stages of tests, each (tests, ignored tests): first its test file, then the other
    tests in that folder."""
    *packages, name = module.split(".")
    folder = Path("tests", *packages)
    mirrored = folder / f"test_{name}.py"
    stages = [([str(mirrored)], [])] if (root / mirrored).is_file() else []
    others = [path for path in (root / folder).glob("test_*.py") if path.name != mirrored.name]
    if others:
        stages.append(([str(folder)], [str(mirrored)]))
    return stages


def run_module(
    options: argparse.Namespace, module: str, mutants: Sequence[Mutant], digest: str
) -> None:
    """Test mutants of one module, and write each result immediately."""
    stages = tests_of(options.root, module)[: 1 if options.mirrored else None]
    limits: list[float] = []  # processor time of each stage, measured when it is first needed
    for mutant in mutants:
        for number, (tests, ignored) in enumerate(stages):
            if number == len(limits):
                limits.append(time_limit(options.root, tests, ignored, options.seconds))
            verdict = judge(options.root, module, mutant.source, tests, ignored, limits[number])
            if verdict.outcome != "survived":
                break
        fault = {k: v for k, v in asdict(mutant).items() if k != "source"}
        result = Result(module, digest, **fault, **asdict(verdict))
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(f"{module} {result.outcome:8} {result.seconds:5.1f} s  {mutant.key}", flush=True)


def time_limit(root: Path, tests: Sequence[str], ignored: Sequence[str], seconds: float) -> float:
    """The time limit of a mutant for these tests. Also imports the packages that they use."""
    found = baseline(root, tests, ignored)
    if found.failed:
        raise SystemExit(f"fails without a mutant: {', '.join(found.failed)}")
    preload(found.third_party)
    return SLACK * found.cpu_seconds + seconds


def read(results: Path) -> dict[tuple[str, str, str], Result]:
    """The newest result of each mutant: (module, digest, key) -> result."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    found = [Result(**json.loads(line)) for line in lines]
    return {(one.module, one.digest, one.key): one for one in found}


def table(judged: Iterable[Result], accepted: dict[str, list[dict[str, str]]]) -> tuple[str, int]:
    """The table of results by module, and the number of unlisted survivors."""
    by_module: dict[str, list[Result]] = {}
    for result in judged:
        by_module.setdefault(result.module, []).append(result)
    by_module["all"] = [result for results in by_module.values() for result in results]
    lines, unlisted = ["| module | mutants | killed | survived | listed with a reason |"], 0
    lines.append("|---|---|---|---|---|")
    for module, results in by_module.items():
        survived = [result for result in results if result.outcome == "survived"]
        listed = [result for result in survived if is_listed(result, accepted)]
        killed = len(results) - len(survived)
        share = f"{killed} ({100 * killed / len(results):.0f} %)" if results else "0"
        lines.append(f"| {module} | {len(results)} | {share} | {len(survived)} | {len(listed)} |")
        unlisted = len(survived) - len(listed)  # the last row is the total
    return "\n".join(lines), unlisted


def is_listed(result: Result, accepted: dict[str, list[dict[str, str]]]) -> bool:
    entries = accepted.get(result.module) or []
    return any(
        (one["in"], one["before"], one["after"]) == (result.function, result.before, result.after)
        for one in entries
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--module", action="append", help="only this module; may be repeated")
    parser.add_argument("--number", type=int, default=NUMBER, help="mutants per module, at most")
    parser.add_argument("--seed", type=int, default=0, help="for sampling mutants")
    parser.add_argument("--survivors", action="store_true", help="test survivors again")
    parser.add_argument("--mirrored", action="store_true", help="only the module's own test file")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="added to the time limit")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    accepted: dict[str, Any] = yaml.safe_load(SURVIVORS.read_text(encoding="utf-8")) or {}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    keys = []
    for module in options.module or TARGETS:
        path = options.root.joinpath(*module.split(".")).with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        mutants = mutants_of(source)
        draw = random.Random(f"{options.seed} {module}")  # a larger number extends the sample
        mutants = draw.sample(mutants, len(mutants))[: options.number]
        keys += [(module, digest, mutant.key) for mutant in mutants]
        known = read(options.results)
        due = [m for m in mutants if is_due(known.get((module, digest, m.key)), options.survivors)]
        if due:
            run_module(options, module, due, digest)
    known = read(options.results)
    text, unlisted = table([known[key] for key in dict.fromkeys(keys)], accepted)
    print(text)
    return 1 if unlisted else 0


def is_due(known: Result | None, survivors: bool) -> bool:
    return known is None or (survivors and known.outcome == "survived")


if __name__ == "__main__":
    sys.exit(main())
