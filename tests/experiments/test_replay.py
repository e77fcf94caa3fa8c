"""Every checked-in table, replayed: rows, claims and pictures stay as they are.

Claims are compared always. Pictures take a minute and are compared by `make replay`, under the
library versions that drew them: PNGs byte for byte; SVGs to a millionth of a figure's width,
since the last digits of a coordinate differ between processors.
"""

import re

import pytest

import experiments
from experiments.findings import drawing
from experiments.frame import experiment, record
from experiments.report import told

NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")
ID = re.compile(r"\b[a-z][0-9a-f]{10}\b")  # that matplotlib hashes from unrounded coordinates
FAMILY = re.compile(r"\(p \S+, Holm over (\d+)\)")
ROUND_OFF = 1e-3  # points, of figures that are 500 to 1,000 wide


def written_claims(out):
    return (out / "claims.csv").read_text()


def replayed_claims(name, out):
    module, config = experiments.load(name), experiment.config_of(experiments.load(name), out)
    return experiment.claims_text(module.findings(record.read_table(out), config).claims)


@pytest.mark.parametrize("name", told.CHECKED_IN)
def test_rows_and_claims_are_those_of_the_run(name):
    out = told.RESULTS / name
    assert record.read_meta(out)["results_sha256"] == record.results_hash(out), (
        f"{name}/results.csv is not the table that its claims and figures were made from"
    )
    assert replayed_claims(name, out) == written_claims(out)


@pytest.mark.parametrize("name", told.CHECKED_IN)
def test_what_is_above_zero_is_one_family(name):
    """That none is left out, `corrected` and the replay see to; here, that it was called once."""
    counts = [
        int(count)
        for claim in told.read_claims(told.RESULTS / name)
        for count in FAMILY.findall(claim.here)
    ]
    assert len(set(counts)) <= 1
    assert not counts or len(counts) <= counts[0], "a caption may rest on more than the table has"


@pytest.mark.parametrize("name", told.CHECKED_IN)
def test_what_is_reported_was_run_from_a_commit(name):
    """A tree with changes of its own cannot be had again."""
    meta = record.read_meta(told.RESULTS / name)
    for commit in (meta["commit"], *meta.get("resumed_at", [])):
        assert re.fullmatch("[0-9a-f]{40}", commit), f"{name} was run from {commit}: run it again"


def same_drawing(old, new):
    """Whether two SVG texts draw the same: equal but for round-off and generated names."""

    def parts(svg):
        names = {}
        text = ID.sub(lambda match: names.setdefault(match[0], f"id{len(names)}"), svg)
        return NUMBER.split(text), [float(number) for number in NUMBER.findall(text)]

    (old_text, old_numbers), (new_text, new_numbers) = parts(old), parts(new)
    return old_text == new_text and all(
        abs(a - b) <= ROUND_OFF for a, b in zip(old_numbers, new_numbers, strict=True)
    )


def pictures(name, out):
    """Name of the file, and its content drawn again."""
    module, config = experiments.load(name), experiment.config_of(experiments.load(name), out)
    yield from experiment.pictures(module.findings(record.read_table(out), config).figures)


@pytest.mark.slow
@pytest.mark.parametrize("name", told.CHECKED_IN)
def test_pictures_are_those_of_the_run(name):
    out = told.RESULTS / name
    made, here = record.read_meta(out)["drawn_with"], drawing.versions()
    if made != here:
        pytest.skip(f"drawn with {made}, here is {here}: bytes of pictures depend on it")
    for file, content in pictures(name, out):
        old = (out / file).read_bytes()
        same = (
            same_drawing(old.decode(), content.decode()) if file.endswith("svg") else old == content
        )
        assert same, f"{name}/{file}, drawn with {made}, looks different now"


# The test of the tests: one number, one colour, one claim.


@pytest.fixture
def copy(tmp_path):
    out = tmp_path / "on_policy"
    out.mkdir()
    for path in (told.RESULTS / "on_policy").iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def test_a_changed_number_is_noticed(copy):
    text = (copy / "results.csv").read_text()
    last = NUMBER.findall(text)[-1]
    head, _, tail = text.rpartition(last)
    (copy / "results.csv").write_text(head + str(float(last) + 1e-12) + tail)
    assert record.read_meta(copy)["results_sha256"] != record.results_hash(copy)


def test_a_changed_effect_changes_a_claim(copy):
    rows = record.read_rows(copy)
    rows[0]["margin"] += 1.0
    record.write_rows(copy, rows)
    assert replayed_claims("on_policy", copy) != written_claims(copy)


def test_a_changed_claim_is_noticed(copy):
    old = written_claims(copy)
    digits = re.search(r"\d\.\d\d ±", old)[0]
    (copy / "claims.csv").write_text(old.replace(digits, "9.99 ±", 1))
    assert replayed_claims("on_policy", copy) != written_claims(copy)


def test_a_changed_colour_is_noticed_and_round_off_is_not(copy, monkeypatch):
    old = dict(pictures("on_policy", copy))
    svg = old["figure.svg"].decode()
    number = NUMBER.findall(svg)[-1]
    assert same_drawing(svg, svg.replace(number, str(float(number) + 1e-6)))
    assert not same_drawing(svg, svg.replace(number, str(float(number) + 1e-1)))
    monkeypatch.setattr(drawing, "COLOURS", tuple(reversed(drawing.COLOURS)))
    new = dict(pictures("on_policy", copy))
    assert new["figure.png"] != old["figure.png"]
    assert not same_drawing(svg, new["figure.svg"].decode())
