"""Files of predictions: read in each form, aligned by id, or refused with a reason (R22)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pools import Store
from scipy.special import expit, softmax

from ensemble.candidates.external import LABEL_PROBABILITY, with_added
from ensemble.candidates.pool import Pool
from ensemble.candidates.screening import screened
from ensemble.choice.cross_fitting import choose
from ensemble.selection.combine import combine
from mlflow_setup.errors import DataError, IntegrityError, NothingUsableError
from mlflow_setup.schema import Outcome
from trainable.evaluation.metrics import predicted_labels

Lines = list[str]


@pytest.fixture
def pool(store: Store) -> Pool:
    store.add_usual("a", 1, num_epochs=1)
    found: Pool = store.pool()
    return found


def lines_of(store: Store, task: str, outputs: np.ndarray, columns: str) -> Lines:
    """Lines of a CSV file with ids and outputs, in the order of the store."""
    rows = outputs[:, None] if outputs.ndim == 1 else outputs
    cells = zip(store.ids(task), rows.tolist(), strict=True)
    return [f"id,{columns}", *(",".join([id_, *map(str, row)]) for id_, row in cells)]


def written(path: Path, lines: Lines) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def outputs_of_file(pool: Pool, name: str, task: str) -> np.ndarray:
    """The outputs read from a file, in the order of the pool's rows."""
    of_task = pool.tasks[task]
    index = [candidate.label for candidate in of_task.candidates].index(name)
    assert of_task.candidates[index].is_added
    assert of_task.choosable[:, index].all()
    return of_task.outputs[index]


def in_order(store: Store, pool: Pool, task: str, values: np.ndarray) -> np.ndarray:
    return values[[store.ids(task).index(row_id) for row_id in pool.tasks[task].ids]]


def test_probabilities_are_averaged_as_given(store: Store, pool: Pool, tmp_path: Path) -> None:
    columns = ",".join(f"probability_{c}" for c in range(5))
    classes = softmax(store.outputs("sentiment", 7).astype(np.float64), axis=1).round(6)
    pairs = expit(store.outputs("paraphrase", 7).astype(np.float64)).round(6)
    found = with_added(
        pool,
        [
            written(tmp_path / "s.csv", lines_of(store, "sentiment", classes, columns)),
            written(tmp_path / "p.csv", lines_of(store, "paraphrase", pairs, "probability")),
        ],
    )
    task = pool.tasks["sentiment"].task
    predictions = combine(task, [outputs_of_file(found, "s.csv", "sentiment")], [1.0])
    np.testing.assert_allclose(predictions, in_order(store, pool, "sentiment", classes), atol=1e-5)
    logits = outputs_of_file(found, "p.csv", "paraphrase")
    np.testing.assert_allclose(expit(logits), in_order(store, pool, "paraphrase", pairs), atol=1e-5)
    assert [(one.task, one.form) for one in found.added] == [
        ("sentiment", "probabilities"),
        ("paraphrase", "probabilities"),
    ]
    assert found.candidates == pool.candidates  # those that can be exported


@pytest.mark.parametrize("column", ["score", "label"])
def test_files_of_scores(store: Store, pool: Pool, tmp_path: Path, column: str) -> None:
    scores = store.outputs("similarity", 7)
    path = written(tmp_path / "t.csv", lines_of(store, "similarity", scores, column))
    found = outputs_of_file(with_added(pool, [path]), "t.csv", "similarity")
    np.testing.assert_allclose(found, in_order(store, pool, "similarity", scores), rtol=1e-5)


@pytest.mark.parametrize("task", ["sentiment", "paraphrase"])
def test_hard_labels_become_a_smoothed_one_hot(
    store: Store, pool: Pool, tmp_path: Path, task: str
) -> None:
    labels = store.labels[task].astype(int)
    path = written(tmp_path / "hard.csv", lines_of(store, task, labels, "label"))
    grown = with_added(pool, [path])
    assert grown.added[0].form == "labels, each with probability 0.9"
    found = outputs_of_file(grown, "hard.csv", task).astype(np.float64)
    own = in_order(store, pool, task, store.labels[task])
    assert predicted_labels(pool.tasks[task].task.kind, found).tolist() == own.tolist()
    if task == "sentiment":
        p = softmax(found, axis=1)
        np.testing.assert_allclose(p.max(axis=1), LABEL_PROBABILITY, rtol=1e-5)
        np.testing.assert_allclose(p.min(axis=1), (1 - LABEL_PROBABILITY) / 4, rtol=1e-5)
    else:
        np.testing.assert_allclose(expit(np.abs(found)), LABEL_PROBABILITY, rtol=1e-5)


def test_a_file_written_by_predict_is_accepted(store: Store, pool: Pool, tmp_path: Path) -> None:
    """It has more columns, of which probabilities are used, a byte order mark, and CRLF."""
    pairs = expit(store.outputs("paraphrase", 7).astype(np.float64))
    lines = ["label,probability,id,sentence1,sentence2"]
    for row_id, p in zip(store.ids("paraphrase"), pairs, strict=True):
        lines.append(f'{int(p > 0.5)},{p},{row_id},"one, two","a ""b"""')
    path = tmp_path / "labels.csv"
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    found = outputs_of_file(with_added(pool, [str(path)]), "labels.csv", "paraphrase")
    np.testing.assert_allclose(expit(found), in_order(store, pool, "paraphrase", pairs), atol=1e-5)


def test_the_order_of_rows_and_files_does_not_matter(
    store: Store, pool: Pool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    paths = {}
    for name, seed in (("a", 7), ("b", 8)):
        scores = store.outputs("similarity", seed)
        header, *rows = lines_of(store, "similarity", scores, "score")
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            order = rng.permutation(len(rows))
            lines = [header, *(rows[n] for n in order)]
            paths[folder, name] = written(tmp_path / folder / f"{name}.csv", lines)
    one = with_added(pool, [paths["one", "a"], paths["one", "b"]]).tasks["similarity"]
    two = with_added(pool, [paths["two", "b"], paths["two", "a"]]).tasks["similarity"]
    assert one.candidates == two.candidates
    assert [candidate.label for candidate in one.candidates] == ["a@1", "a.csv", "b.csv"]
    np.testing.assert_array_equal(one.outputs, two.outputs)


def truncate(lines: Lines, rng: np.random.Generator) -> Lines:
    return lines[: rng.integers(2, len(lines))]


def cut_a_row(lines: Lines, rng: np.random.Generator) -> Lines:
    kept = truncate(lines[1:], rng)
    return [lines[0], *kept, lines[len(kept) + 1].partition(",")[0]]


def duplicate(lines: Lines, rng: np.random.Generator) -> Lines:
    row = lines[rng.integers(1, len(lines))]
    lines.insert(int(rng.integers(1, len(lines))), row)
    return lines


def change_an_id(lines: Lines, rng: np.random.Generator) -> Lines:
    index = rng.integers(1, len(lines))
    return [*lines[:index], f"x{lines[index]}", *lines[index + 1 :]]


def change_all_ids(lines: Lines, rng: np.random.Generator) -> Lines:
    return [lines[0], *(f"other-{line}" for line in lines[1:])]


def invalidate_a_number(lines: Lines, rng: np.random.Generator) -> Lines:
    index = rng.integers(1, len(lines))
    value = rng.choice(["", "nan", "inf", "1,5", "x"])
    cell = f'"{value}"' if "," in value else value
    return [*lines[:index], f"{lines[index].partition(',')[0]},{cell}", *lines[index + 1 :]]


DAMAGES = {
    truncate: "not the dev rows of a task: of similarity's 60 ids [0-9]+ are missing, 0 are unkno",
    cut_a_row: "1 cells, the header has 2",
    duplicate: "duplicate id",
    change_an_id: "of similarity's 60 ids 1 are missing, 1 are unknown",
    change_all_ids: "ids 60 are missing, 60 are unknown",
    invalidate_a_number: "score is '.*', not a finite number",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_files_are_refused_with_a_reason(
    store: Store,
    pool: Pool,
    tmp_path: Path,
    damage: Callable[[Lines, np.random.Generator], Lines],
) -> None:
    """30 random damages of each kind."""
    rng = np.random.default_rng(0)
    scores = store.outputs("similarity", 7)
    for number in range(30):
        lines = damage(lines_of(store, "similarity", scores, "score"), rng)
        path = written(tmp_path / f"{number}.csv", lines)
        with pytest.raises(DataError, match=rf"{number}\.csv:.*{DAMAGES[damage]}"):
            with_added(pool, [path])


@pytest.mark.parametrize(
    ("task", "columns", "value", "message"),
    [
        ("sentiment", "label", "5", "label is '5', not a class in 0..4"),
        ("sentiment", "label", "1.5", "label is '1.5', not a class"),
        ("paraphrase", "label", "2", "label is '2', not a class in 0..1"),
        ("paraphrase", "probability", "1.2", r"\[1.2\] are not probabilities"),
        ("paraphrase", "probability", "-0.1", r"\[-0.1\] are not probabilities"),
        ("paraphrase", "score", "1", "neither probability nor label among its columns: id, score"),
        ("sentiment", "probability_0", "1", "neither probability_0, probability_1, "),
    ],
)
def test_values_that_are_invalid_for_the_task_are_refused(
    store: Store, pool: Pool, tmp_path: Path, task: str, columns: str, value: str, message: str
) -> None:
    lines = [f"id,{columns}", *(f"{row_id},{value}" for row_id in store.ids(task))]
    with pytest.raises(DataError, match=rf"x\.csv:.*{message}"):
        with_added(pool, [written(tmp_path / "x.csv", lines)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column id"),
        (b"row,label\n", "no column id; its columns are 'row, label'"),
        (b"id,label\n\xff,1\n", "2: byte 0xff is not UTF-8"),
        (None, "there is no such file"),
    ],
)
def test_files_that_are_not_predictions_are_refused(
    pool: Pool, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.csv:.*{message}"):
        with_added(pool, [str(path)])


def test_files_without_a_usable_run_are_refused(store: Store, tmp_path: Path) -> None:
    store.add_usual("a", 1, outcome=Outcome.FAILED)
    with pytest.raises(NothingUsableError, match="a: failed: no reason recorded"):
        choose(screened(with_added(store.pool(), [str(tmp_path / "none.csv")])))


def test_a_file_given_twice_is_refused(store: Store, pool: Pool, tmp_path: Path) -> None:
    scores = store.outputs("similarity", 7)
    path = written(tmp_path / "x.csv", lines_of(store, "similarity", scores, "score"))
    with pytest.raises(DataError, match=r"x\.csv: a file of this name is already added"):
        with_added(pool, [path, path])


def test_files_for_tasks_with_the_same_rows_must_name_their_task(
    store: Store, pool: Pool, tmp_path: Path
) -> None:
    tasks = {**pool.tasks, "again": pool.tasks["similarity"]}
    both = Pool(tasks, pool.candidates, ())
    scores = store.outputs("similarity", 7)
    path = written(tmp_path / "x.csv", lines_of(store, "similarity", scores, "score"))
    with pytest.raises(DataError, match=r"similarity, again have the same rows\nfix: name the fil"):
        with_added(both, [path])
    assert with_added(both, [f"again={path}"]).added[0].task == "again"
    with pytest.raises(DataError, match="of sentiment's 60 ids 60 are missing, 60 are unknown"):
        with_added(both, [f"sentiment={path}"])


def test_prediction_files_of_runs_must_be_of_the_same_data(
    store: Store, pool: Pool, tmp_path: Path
) -> None:
    outputs, path = store.outputs("sentiment", 7), tmp_path / "0007.parquet"
    store.predictions("sentiment", outputs).write(path)
    grown = with_added(pool, [str(path)])
    expected = in_order(store, pool, "sentiment", outputs)
    np.testing.assert_array_equal(outputs_of_file(grown, "0007.parquet", "sentiment"), expected)
    store.predictions("sentiment", outputs, data_fingerprint="other").write(path)
    with pytest.raises(IntegrityError, match=r"0007\.parquet: .*data_fingerprint is 'other'"):
        with_added(pool, [str(path)])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match=r"0007\.parquet: not a prediction file"):
        with_added(pool, [str(path)])


def test_a_mistyped_task_is_named(pool: Pool) -> None:
    with pytest.raises(DataError, match="no task 'sentment'; there are sentiment"):
        with_added(pool, ["sentment=x.csv"])
