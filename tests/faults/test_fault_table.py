"""The table itself: a loss, or a figure that is above what was promised, cannot hide in it."""

from pathlib import Path

import pytest
from fault_table import END, START, markdown, put_into, rows_of

ROOT = Path(__file__).parents[2]

KILL = ("promise", ["R3", "the driver is killed", "whole"])


def test_counts_figures_and_what_was_not_kept() -> None:
    seconds = {"row": "R3", "what": "running again after", "unit": "s", "within": 15}
    slow, fast = ({**seconds, "values": values} for values in ([17.64, 3], [0.5]))
    plays = [
        (("promise", ["S7", "secrets", "not written"]), ("played", {"row": "S7", "count": 1200})),
        (KILL, ("measured", fast)),
        (KILL, ("measured", slow), ("promise", ["R10", "kills", "whole"])),
    ]
    table = markdown(rows_of([(play, False) for play in plays]))
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| R3", "| R10", "| S7"]
    assert (
        "| R3 | the driver is killed | whole | yes | 2 | 0 | running again after 0.50 to 17.6 s "
        "| **no**: running again after 17.6 s, not 15 |"
    ) in table
    assert "| S7 | secrets | not written | yes | 1,200 | 0 |  | yes |" in table


def test_a_test_that_fails_is_a_loss_of_each_of_its_promises() -> None:
    other = ("promise", ["R20", "a trial hangs", "ended"])
    rare = ("rare", True)
    table = markdown(rows_of([((rare, KILL, other), True), ((rare, KILL), False)]))
    assert "| R3 | the driver is killed | whole | no | 2 | 1 |  | **no**: lost 1 |" in table
    assert "| R20 | a trial hangs | ended | no | 1 | 1 |  | **no**: lost 1 |" in table


def test_it_is_put_between_the_marks_of_a_document(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    for _ in range(2):
        put_into(document, "new\n")
    assert document.read_text() == f"before\n{START}\n\nnew\n\n{END}\nafter\n"


def test_the_page_says_which_promises_make_test_plays(request: pytest.FixtureRequest) -> None:
    """Of the tests that were collected: `make test` collects all that it plays."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = page.partition(START)[2].partition(END)[0].splitlines()
    rows = [tuple(cell.strip() for cell in line.strip("| ").split(" | ")[:4]) for line in lines]
    said = {row[:3] for row in rows if row[3:] == ("yes",)}
    ours = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    played = {
        marker.args
        for item in ours
        if not item.get_closest_marker("rare")
        for marker in item.iter_markers("promise")
    }
    assert played <= said
    if {item.path for item in ours} == set(Path(__file__).parent.glob("test_*.py")):
        assert played == said
