"""Columns of Parquet files: cached ids, and numbers."""

import pyarrow as pa
import pytest

from trainable.storage.columns import are_distinct, hash_of, ids_of, numbers_of


def test_equal_ids_are_one_object() -> None:
    whole = pa.chunked_array([["x", "a", "b"], ["c"]])
    first = ids_of(whole.slice(1))
    assert first == ("a", "b", "c")
    assert ids_of(pa.chunked_array([["a"], ["b", "c"]])) is first
    assert ids_of(pa.chunked_array([["a", "c", "b"]])) == ("a", "c", "b")
    assert ids_of(whole.slice(0, 2)) == ("x", "a")
    assert ids_of(pa.chunked_array([["a", "b"]])) == ("a", "b")


def test_the_hash_of_ids_depends_on_order_and_number() -> None:
    lists = [("a", "b"), ("b", "a"), ("ab",), ("a", "b", "b"), ()]
    assert len({hash_of(ids) for ids in lists}) == len(lists)
    assert [are_distinct(ids) for ids in lists] == [True, True, True, False, True]


@pytest.mark.parametrize("values", [[1, 2], ["a", None], [b"a"]])
def test_ids_that_are_not_text_are_refused(values: list[object]) -> None:
    with pytest.raises(ValueError, match="an ID is not text"):
        ids_of(pa.chunked_array([values]))


def test_numbers_are_read_from_all_chunks_and_other_values_refused() -> None:
    column = pa.chunked_array([[0.5], [1.5, float("inf")], []], pa.float32()).slice(1)
    assert numbers_of(column).tolist() == [1.5, float("inf")]
    assert numbers_of(column.slice(0, 0)).tolist() == []
    with pytest.raises(ValueError, match="string instead of numbers"):
        numbers_of(pa.chunked_array([["0.5"]]))
    with pytest.raises(pa.ArrowException, match="null"):
        numbers_of(pa.chunked_array([[0.5, None]]))
