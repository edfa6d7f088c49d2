"""The table of promises shows failed tests and measurements above their limits."""

from pathlib import Path

import pytest
from fault_table import END, START, markdown, put_into, rows_of

ROOT = Path(__file__).parents[2]

KILL = ("promise", ["R3", "the driver is killed", "whole"])


def test_rows_have_counts_measurements_and_exceeded_limits() -> None:
    seconds = {"row": "R3", "what": "running again after", "unit": "s", "within": 15}
    slow, fast = ({**seconds, "values": values} for values in ([17.64, 3], [0.5]))
    results = [
        (("promise", ["S7", "secrets", "not written"]), ("played", {"row": "S7", "count": 1200})),
        (KILL, ("measured", fast)),
        (KILL, ("measured", slow), ("promise", ["R10", "kills", "whole"])),
    ]
    table = markdown(rows_of([(properties, False) for properties in results]))
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| R3", "| R10", "| S7"]
    assert (
        "| R3 | the driver is killed | whole | yes | 2 | 0 | running again after 0.50 to 17.6 s "
        "| **no**: running again after 17.6 s, not 15 |"
    ) in table
    assert "| S7 | secrets | not written | yes | 1,200 | 0 |  | yes |" in table


def test_a_failed_test_counts_for_each_of_its_promises() -> None:
    other = ("promise", ["R20", "a trial hangs", "ended"])
    rare = ("rare", True)
    table = markdown(rows_of([((rare, KILL, other), True), ((rare, KILL), False)]))
    assert "| R3 | the driver is killed | whole | no | 2 | 1 |  | **no**: 1 failed |" in table
    assert "| R20 | a trial hangs | ended | no | 1 | 1 |  | **no**: 1 failed |" in table


def test_the_table_is_written_between_the_marks_of_a_document(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    for _ in range(2):
        put_into(document, "new\n")
    assert document.read_text() == f"before\n{START}\n\nnew\n\n{END}\nafter\n"


def test_the_page_shows_which_promises_make_test_checks(request: pytest.FixtureRequest) -> None:
    """Compares the collected tests with the page, and vice versa if all modules were collected."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = page.partition(START)[2].partition(END)[0].splitlines()
    rows = [tuple(cell.strip() for cell in line.strip("| ").split(" | ")[:4]) for line in lines]
    on_page = {row[:3] for row in rows if row[3:] == ("yes",)}
    items = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    checked = {
        marker.args
        for item in items
        if not item.get_closest_marker("rare")
        for marker in item.iter_markers("promise")
    }
    assert checked <= on_page
    if {item.path for item in items} == set(Path(__file__).parent.glob("test_*.py")):
        assert checked == on_page
