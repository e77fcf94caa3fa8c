import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.frame import tables
from experiments.report import told

WORDS = st.text(alphabet="abc±0.9", min_size=1, max_size=14)
CELLS = st.lists(WORDS, max_size=8).map(" ".join)


@settings(deadline=None)  # on a busy machine one example may take its time
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5),
    width=st.integers(20, 100),
)
def test_every_word_survives_whole_and_no_line_is_too_long(rows, width):
    columns = dict(zip("xyz", map(list, zip(*rows, strict=True)), strict=True))
    lines = tables.layout(columns, width)
    found = " ".join(lines).split()
    for cell in (cell for row in rows for cell in row):
        for word in cell.split():
            assert word in found, "broken inside"
    if tables.column_widths(columns, width) is not None:
        assert max(map(len, lines)) <= width


def test_columns_stand_side_by_side_and_wrap_between_words():
    columns = {"quantity": ["accuracy of the first student", "loss"], "here": ["0.5 ± 0.1", ""]}
    assert tables.layout(columns, 28) == [
        "quantity           here",
        "accuracy of the    0.5 ± 0.1",
        "first student",
        "loss",
    ]


def test_without_room_rows_become_paragraphs():
    columns = {"quantity": ["internationalisation", "loss"], "here": ["0.5 ± 0.1", ""]}
    assert tables.layout(columns, 24) == ["internationalisation", "  here: 0.5 ± 0.1", "loss"]


@pytest.mark.parametrize("name", told.CHECKED_IN)
def test_every_experiment_fits_eighty_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    claims = told.read_claims(told.RESULTS / name)
    tables.print_claims(claims)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = set(" ".join(lines).split())
    for claim in claims:
        assert words >= {*claim.quantity.split(), *claim.here.split(), *claim.replication.split()}
    assert lines[0].startswith("quantity"), "side by side, not paragraphs"
