"""`ensweep export`, `verify`, `sign`, `push`, `evaluate`: write, check, publish, score a bundle."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ensweep.cli.shared.command import example
from ensweep.cli.shared.options import (
    AsJson,
    BatchSize,
    Bundle,
    DataDirNeeded,
    EnsembleOptions,
    Folder,
    Precision,
)
from ensweep.cli.shared.output import print_json, say_next
from ensweep.cli.shared.place import Place
from ensweep.cli.shared.progress import show_progress
from mlflow_setup.filesystem.opening import folder_to_make

if TYPE_CHECKING:
    from ensemble.export.write import Refine
    from ensemble.inference.evaluation import Evaluation
    from trainable.config.tasks import Task


@example(
    "ensweep export reviews --output bundle",
    "ensweep export --runs sentiment=0001,0004 --output bundle",
)
def export(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder or storage URI of the new bundle."),
        folder_to_make,
    ],
    options: EnsembleOptions,
    place: Place,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"],
        typer.Option(
            "--precision", help="Precision of the stored weights; fp16 and bf16 need --data-dir."
        ),
    ] = "fp32",
    data_dir: Annotated[
        str | None,
        typer.Option(
            "--data-dir", help="Folder or URI of dev files, to measure the effect of --precision."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export the selective ensemble of one sweep or several to a self-contained folder."""
    from ensemble.export.write import export as write
    from ensemble.export.write import unchanged
    from mlflow_setup.errors import ConfigError
    from mlflow_setup.filesystem.storage import num_bytes, storage_of

    refine = unchanged if precision == "fp32" else halving(precision, data_dir)
    if precision == "fp32" and data_dir is not None:
        raise ConfigError("--data-dir is for --precision fp16 or bf16", fix="leave it out")
    with show_progress():
        contents = write(
            place.tracking, options.request(place.tracking), place.cache, output, refine
        )
    size, storage = num_bytes(output), storage_of(output)
    address = storage.address(output)
    storage.end(output)
    if as_json:
        halved = {task: dataclasses.asdict(scores) for task, scores in contents.halved.items()}
        facts = {"members": list(contents.members), "num_bytes": size, "halved": halved}
        print_json(folder=address, tasks=list(contents.tasks), **facts)
        return
    typer.echo(f"{address}: {len(contents.members)} member(s), {size / 1e6:.0f} MB")
    for task, scores in contents.halved.items():
        change = f"{scores.fp32:.4f} in fp32, {scores.stored:.4f} in {precision}"
        typer.echo(f"{task}: {change} ({scores.stored - scores.fp32:+.4f}; in-sample, dev)")
    if data_dir is not None:
        say_next("evaluate", address, "--data-dir", data_dir)
    name, entry = next(iter(contents.tasks.items()))
    pair = ["--text2", "the other"] if entry.task.kind.is_pair else []
    say_next("predict", address, "--task", name, "--text", "a sentence of yours", *pair)


def halving(precision: Literal["fp16", "bf16"], data_dir: str | None) -> "Refine":
    """The conversion to half precision, with its effect measured on the dev files in `data_dir`.

    Raises:
        ConfigError: `data_dir` is None.
    """
    from ensemble.export.half_precision import Halving
    from mlflow_setup.errors import ConfigError
    from trainable.data.remote import data_folder

    if data_dir is None:
        raise ConfigError(
            f"--precision {precision}: needs dev files to measure its effect on the scores",
            fix="name their folder: --data-dir DIR",
        )
    return Halving(precision, data_folder(data_dir))


@example("ensweep verify bundle --key signer.pem")
def verify(
    folder: Bundle,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (PEM) to check the signature with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify that a bundle is complete and unchanged (exit code 6 if not)."""
    from ensemble.bundle.format import Bundle
    from ensemble.bundle.signature import verify_signature

    contents = Bundle.load(folder).contents
    if key is not None:
        verify_signature(folder, key)
    if as_json:
        print_json(
            folder=str(folder),
            tasks=list(contents.tasks),
            members=list(contents.members),
            is_signed=key is not None,
        )
    else:
        signed = "" if key is None else f"; signed by the owner of {key}"
        typer.echo(f"{folder}: verified; {len(contents.members)} member(s){signed}")


@example("ensweep sign bundle --key private.pem")
def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option("--key", help="Ed25519 private key (PEM).")],
    as_json: AsJson = False,
) -> None:
    """Sign a bundle. The signature is a file beside its folder, for `ensweep verify --key`."""
    from ensemble.bundle.signature import sign as write

    file = write(folder, key)
    if as_json:
        print_json(folder=str(folder), signature=str(file))
    else:
        typer.echo(f"{file}: the signature of {folder}")


@example("ensweep push bundle OWNER/NAME --private")
def push(
    folder: Bundle,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create a missing repository as private.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a bundle to the Hugging Face hub, with the login of `hf auth login`."""
    from ensemble.export.push import push as upload

    commit = upload(folder, repo, is_private=private)
    if as_json:
        print_json(folder=str(folder), repo=repo, commit=commit)
        return
    typer.echo(commit)
    place = shlex.quote(repo.rpartition("/")[2])
    typer.echo(
        f"to get it: hf download {shlex.quote(repo)} --local-dir {place} && ensweep verify {place}",
        err=True,
    )


@example("ensweep evaluate bundle --data-dir data --split dev")
def evaluate(
    folder: Bundle,
    data_dir: DataDirNeeded,
    split: Annotated[
        Literal["train", "dev", "test"], typer.Option("--split", help="Split to score.")
    ] = "dev",
    on_bad_rows: Annotated[
        Literal["error", "skip"], typer.Option("--on-bad-rows", help="What to do with bad rows.")
    ] = "error",
    as_json: AsJson = False,
    batch_size: BatchSize = 64,
    precision: Precision = "fp32",
) -> None:
    """Evaluate a bundle on labelled data."""
    from ensemble.inference.ensemble import Ensemble
    from trainable.data.remote import data_folder

    files = data_folder(data_dir)
    ensemble = Ensemble.load(folder, batch_size, precision)
    with show_progress():
        evaluation = ensemble.evaluate(files, split, on_bad_rows == "skip")
    if as_json:
        content = dataclasses.asdict(evaluation)
        content["scores"]["overall"] = content.pop("overall")
        print_json(**content)
    else:
        _print_scores(evaluation, ensemble.tasks)
    for line in _origin(evaluation):
        typer.echo(line, err=True)


def _origin(evaluation: "Evaluation") -> list[str]:
    """Whether the rows were used to search for or choose the members, one line per answer."""
    if evaluation.split == "train":
        return ["train files: in-sample if the members were trained on them"]
    origins = {
        True: "in-sample: the search and the choice of members used these rows",
        False: "out-of-sample: these rows are not the members' dev set",
        None: "it is not recorded whether the choice of members used these rows",
    }
    tasks = {
        text: [name for name, is_dev in evaluation.is_dev.items() if is_dev is known]
        for known, text in origins.items()
    }
    return [f"{', '.join(names)}: {text}" for text, names in tasks.items() if names]


def _print_scores(evaluation: "Evaluation", tasks: "dict[str, Task]") -> None:
    for name, score in evaluation.scores.items():
        skipped = evaluation.num_skipped[name]
        notes = f"{evaluation.num_rows[name]} rows" + (f", {skipped} skipped" if skipped else "")
        if name in evaluation.undefined:
            notes += f"; undefined: {evaluation.undefined[name]}"
        notes += f"; {evaluation.seconds_per_1000[name]:.2f} s per 1,000 sentences"
        typer.echo(f"{name:<12} {tasks[name].metric or '':<10} {score:.4f}  {notes}")
    typer.echo(f"{'overall':<12} {'':<10} {evaluation.overall:.4f}")
    for name, reason in evaluation.unscored.items():
        typer.echo(f"not scored: {name}: {reason}", err=True)
