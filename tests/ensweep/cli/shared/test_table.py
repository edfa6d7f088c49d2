"""Tables: the columns that fit a terminal, and their widths."""

import pytest

from ensweep.cli.shared.table import GOOD_CUT_WIDTH, Column, fitting, print_columns, terminal_width


def columns() -> list[Column]:
    return [
        Column("trial", ("0001", "frozen-linear"), is_key=True),
        Column("overall", ("0.7123", ""), is_number=True, is_key=True),
        Column("optim.lr", ("0.001", "0.1"), header="lr"),
        Column("why", ("rung 1: 0.612 below cut-off 0.655 of 14", ""), is_cut=True, is_key=True),
    ]


ORDER = ("trial", "overall", "why", "optim.lr")


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (5, {"trial": 13}),  # one column is always shown
        (20, {"trial": 13, "optim.lr": 5}),
        (21, {"trial": 13, "overall": 6}),
        (35, {"trial": 13, "overall": 6, "why": 12}),
        (36, {"trial": 13, "overall": 7, "why": 12}),
        (54, {"trial": 13, "overall": 7, "why": GOOD_CUT_WIDTH}),
        (61, {"trial": 13, "overall": 7, "optim.lr": 5, "why": GOOD_CUT_WIDTH}),
        (70, {"trial": 13, "overall": 7, "optim.lr": 5, "why": 39}),
    ],
)
def test_columns_that_fit_a_width(width: int, expected: dict[str, int]) -> None:
    assert fitting(columns(), ORDER, width) == expected


@pytest.mark.parametrize("width", [30, 60, 80, 140])
def test_no_line_is_wider_than_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    left_out = print_columns(columns(), ORDER)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert left_out == {30: ["why"], 60: ["optim.lr"]}.get(width, [])


def test_without_a_terminal_nothing_is_cut_and_markup_is_not_interpreted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal_width() is None
    long = Column("why", ("[bold]x[/bold] \x1b[2J " + 200 * "y",), is_cut=True)
    print_columns([long], ["why"])
    assert capsys.readouterr().out.splitlines()[1].rstrip() == "[bold]x[/bold] ?[2J " + 200 * "y"
