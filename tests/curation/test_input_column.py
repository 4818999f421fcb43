import pyarrow as pa
import pytest

from curation.input_column import merged_fields, with_input
from pairmill.errors import InputError

ROWS = pa.table({"uid": ["a", "b"], "input": pa.array([{"n": 1}, {"n": None}], pa.struct([("n", pa.int64())]))})
WIDER = pa.struct([("n", pa.int64()), ("m", pa.string())])


def test_missing_columns_are_null_and_the_rows_are_not() -> None:
    wider = with_input(ROWS, WIDER)["input"]
    assert wider.type == WIDER
    assert wider.to_pylist() == [{"n": 1, "m": None}, {"n": None, "m": None}]
    assert wider.null_count == 0
    assert with_input(ROWS.select(["uid"]), WIDER)["input"].to_pylist() == [{"n": None, "m": None}] * 2
    assert with_input(ROWS.slice(0, 0), WIDER)["input"].to_pylist() == []


def test_rows_that_have_all_columns_are_left_as_they_are() -> None:
    assert with_input(ROWS, ROWS.schema.field("input").type) is ROWS
    assert with_input(ROWS, None) is ROWS


@pytest.mark.parametrize(
    ("planned", "given"),
    [
        (pa.int64(), pa.int32()),
        (pa.float64(), pa.int64()),
        (pa.string(), pa.large_string()),
        (pa.int64(), pa.null()),
    ],
)
def test_a_type_that_fits_takes_the_planned_one(planned: pa.DataType, given: pa.DataType) -> None:
    assert merged_fields(pa.struct([("c", planned)]), pa.struct([("c", given)])).field("c").type == planned


@pytest.mark.parametrize(
    ("planned", "given"), [(pa.int64(), pa.float64()), (pa.string(), pa.int64()), (pa.int32(), pa.int64())]
)
def test_one_that_does_not_is_refused(planned: pa.DataType, given: pa.DataType) -> None:
    with pytest.raises(InputError, match="must have the run's column types"):
        merged_fields(pa.struct([("c", planned)]), pa.struct([("c", given)]))


def test_a_column_without_a_value_so_far_takes_a_type() -> None:
    merged = merged_fields(pa.struct([("c", pa.null())]), pa.struct([("c", pa.int64())]))
    old = pa.table({"input": pa.array([{"c": None}], pa.struct([("c", pa.null())]))})
    assert with_input(old, merged)["input"].to_pylist() == [{"c": None}]
    assert with_input(old, merged)["input"].type == merged
