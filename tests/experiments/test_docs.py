"""What templates may say, how it is written, and how a page is wrapped."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import __main__ as door
from experiments.findings import statistics
from experiments.findings.claims import Claim
from experiments.frame import experiment, record
from experiments.report import docs, told, wrapping

CLAIMS = [
    Claim(quantity="same, owl", here="1.14 ± 0.42 at 5.94 nats", seeds=10, holds=True),
    Claim(quantity="same, wolf", here="-0.42 [-0.48, -0.36]", seeds=10, holds=False),
    Claim(quantity="same", here="0.35; 0.36 ± 0.14 by chain", seeds=8),
    Claim(
        quantity="none (1 of 2, Holm)", here="0.01 ± 0.04 within ±0.2: p 1, from 4.3% on", seeds=8
    ),
]
ROWS = [
    {"part": "a", "teacher": t, "trait": o, "data": d, "seed": s, "start": "same", "margin": m}
    for s in range(4)
    for t in ("owl", "wolf")
    for o in ("owl", "wolf")
    for d, m in (("trait", 2.0 * (t == o) + s), ("control", 0.5 * s))
]


@pytest.fixture
def run(tmp_path):
    out = tmp_path / "made_up"
    out.mkdir()
    meta = {"finished": True, "commit": "0123456789abcdef-dirty", "config": {"num_seeds": 4}}
    record.write_meta(out, meta)
    record.write_rows(out, ROWS)
    (out / "claims.csv").write_text(experiment.claims_text(CLAIMS))
    return told.Run(out)


def test_claims_come_back_as_they_were_written(run):
    assert run.claims == CLAIMS
    assert run.judged == CLAIMS[:2]
    assert run.failed == CLAIMS[1:2]
    assert (run.commit, run.config) == ("0123456789-dirty", {"num_seeds": 4})


def test_a_run_that_has_not_ended_says_nothing(run):
    record.write_meta(run.out, run.meta | {"finished": False})
    with pytest.raises(record.RunFolderError, match="has not ended"):
        told.read_claims(run.out)


def test_a_claim_is_named_whole_or_by_a_beginning_of_its_own(run):
    assert run["same"] is run.claims[2], "also where others begin so"
    assert run["none"] is run.claims[3]
    assert run.quoted == {"same", "none (1 of 2, Holm)"}
    with pytest.raises(told.Untold, match="made_up has several claims that begin 'same,'; near: "):
        run["same,"]
    with pytest.raises(told.Untold, match=r"no claim .* 'sane, owl'; near: 'same, owl'"):
        run["sane, owl"]
    assert len(run.quoted) == 2
    assert run.all_judged() == run.judged
    assert run.quoted == {claim.quantity for claim in run.claims}


def test_rows_are_selected_and_averaged_within_a_seed_first(run):
    by_seed = pd.DataFrame(ROWS).query("data == 'trait'").groupby("seed")["margin"].mean()
    assert run.shown("margin", data="trait") == statistics.shown(by_seed)
    assert run.mean("margin", data="control", seed=2) == 1.0
    assert run.mean("margin", data="control", seed="2") == 1.0, "a text is compared as text"
    assert run.total("margin", data="control", seed=2) == 4.0
    with pytest.raises(told.Untold, match="no row with"):
        run.shown("margin", data="nothing")
    with pytest.raises(told.Untold, match="no column 'dada'"):
        run.shown("margin", dada="trait")


def test_effects_are_those_over_the_control(run):
    """Own: 2 + s - s/2. Others: s - s/2."""
    half = 0.5 * np.arange(4)
    assert run.own(start="same") == statistics.shown(2 + half, 2)
    assert run.others(start="same") == statistics.shown(half, 2)
    assert run.own_by_chain(start="same") == pytest.approx(2 + half)


@pytest.mark.parametrize("mass", [0.09, float("nan")])
def test_an_arm_that_does_not_answer_has_no_effect_to_tell(run, mass):
    """Selected alone it is the arm that answers most, and yet it says nothing."""
    run.rows["mass"] = mass
    assert run.own(start="same") == run.others(start="same") == "says nothing"
    run.rows["mass"] = 0.11
    assert run.own(start="same") == statistics.shown(2 + 0.5 * np.arange(4), 2)


def test_numbers_are_taken_out_of_what_a_claim_says():
    owl, wolf, same, none = CLAIMS
    assert (told.interval(owl), told.interval(wolf)) == ("1.14 ± 0.42", "-0.42 [-0.48, -0.36]")
    assert told.interval(same) == "0.36 ± 0.14"
    assert told.interval("0.7 ± 0.1; 9.6 [5.7, 23]", 2) == "9.6 [5.7, 23]"
    assert (told.number(owl, "at"), told.number(same), told.number(owl, nth=3)) == (
        "5.94",
        "0.35",
        "5.94",
    )
    assert told.number(none, "within ±") == "0.2"
    assert [told.least(claim) for claim in CLAIMS] == ["", "", "", "4.3%"]
    assert told.least(dataclasses.replace(none, here="0.1 ± 0.1, at no margin")) == "none"
    alone = "0.1 ± 0.1 within ±0.2 (smallest margin that holds alone: 0.15); p 0.1 (1 of 2, Holm)"
    assert told.least(dataclasses.replace(none, here=alone)) == "±0.15"
    with pytest.raises(told.Untold, match="no interval 2"):
        told.interval(owl, 2)
    with pytest.raises(told.Untold, match="no number 1 behind 'loss'"):
        told.number(owl, "loss")


def test_numbers_are_written_otherwise():
    assert told.negated("-0.14 ± 0.08") == "0.14 ± 0.08"
    assert told.negated("0.14 ± 0.08") == "-0.14 ± 0.08"
    assert told.negated(CLAIMS[1]) == "0.42 [0.36, 0.48]"
    assert told.negated("0.3 [-0.1, 0.5]") == "-0.3 [-0.5, 0.1]"
    assert told.negated("+1.5") == "-1.5"
    assert (told.signed("0.1 ± 0.2"), told.signed("-0.1 ± 0.2")) == ("+0.1 ± 0.2", "-0.1 ± 0.2")
    assert (told.bare("0.87"), told.bare("-0.87"), told.bare("10.5")) == (".87", "-.87", "10.5")
    assert (told.fixed("1.020", 2), told.percent(0.461, 1), told.thousands("24000")) == (
        "1.02",
        "46.1",
        "24,000",
    )
    assert told.factor("0.48 ± 0.32") == "1.6"
    silent = Claim(quantity="a", here="says nothing: answer mass 0.0065 is below 0.01")
    assert told.heard(silent) == "says nothing"
    assert told.heard(dataclasses.replace(silent, here="0.48 ± 0.32; p 0.01")) == "0.48 ± 0.32"
    assert told.heard(dataclasses.replace(silent, here="0.67 and 0.35")) == "0.67 and 0.35"
    assert told.cell("a | b") == "a \\| b"


def test_a_sentence_needs_its_claims():
    owl, wolf, same, _ = CLAIMS
    assert told.stands(owl) == told.falls(wolf) == told.stands() == ""
    with pytest.raises(told.Untold, match="a claim that holds, and 'same, wolf' fails"):
        told.stands(owl, wolf)
    with pytest.raises(told.Untold, match="a claim that fails, and 'same, owl' holds"):
        told.falls(owl)
    with pytest.raises(told.Untold, match="'same' has no verdict"):
        told.stands(same)


def test_a_number_of_no_table_has_a_source():
    assert told.given(".30", "arXiv 2507.14805") == ".30"
    with pytest.raises(told.Untold, match="source"):
        told.given(".30", "")


def test_constants_and_measurements_are_read():
    assert told.constant("llm_in_context", "MARGIN") == 0.2
    assert told.measured("*-mnist.json")["seeds"] == 4
    with pytest.raises(told.Untold, match="no constant NOTHING"):
        told.constant("llm_in_context", "NOTHING")
    with pytest.raises(told.Untold, match="no nothing"):
        told.measured("nothing")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{{ run("on_policy")["nobody writes"] }}', "on_policy has no claim"),
        ('{{ run("nothing") }}', "no run of 'nothing' is checked in"),
        ("{{ unknown }}", "'unknown' is undefined"),
        ("{{ run( }}", "unexpected"),
    ],
)
def test_a_template_that_asks_for_nothing_says_where(tmp_path, monkeypatch, capsys, line, said):
    """In one line, with exit code 2; and no page is written."""
    monkeypatch.setattr(docs, "TEMPLATES", tmp_path)
    monkeypatch.setattr(told, "ROOT", tmp_path / "root")
    (tmp_path / "a.md.jinja").write_text("good\n")
    (tmp_path / "b.md.jinja").write_text(f"# Page\n\n{line}\n")
    with pytest.raises(SystemExit) as stopped:
        door.main(["docs"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.count("\n") == 1
    assert "docs/templates/b.md.jinja, line 3: " in error
    assert said in error
    assert not (tmp_path / "root").exists()


def test_only_what_has_changed_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(docs, "TEMPLATES", tmp_path)
    monkeypatch.setattr(told, "ROOT", tmp_path / "root")
    (tmp_path / "root/docs").mkdir(parents=True)
    (tmp_path / "README.md.jinja").write_text("# Seeds\n\n{{ given('8', 'a test') }} of them\n")
    (tmp_path / "b.md.jinja").write_text("text\n")
    door.main(["docs"])
    assert capsys.readouterr().out == "written: README.md\nwritten: docs/b.md\n"
    assert (tmp_path / "root/README.md").read_text().startswith("# Seeds\n\n8 of them\n\n<!--")
    (tmp_path / "b.md.jinja").write_text("another text\n")
    door.main(["docs"])
    assert capsys.readouterr().out == "written: docs/b.md\n"


def test_the_vocabulary_needs_no_jax():
    """Rendering takes seconds, of which importing JAX would be most."""
    code = (
        "import sys; from experiments.report import docs; docs.rendered(); "
        "print('jax' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def slug(heading):
    """The anchor of a heading: lower case, words joined by hyphens, no other marks."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(path):
    """The anchors of a page; lines of fenced code are no headings."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


LINK = re.compile(r"\]\(([^)\s:]*)#([^)\s]+)\)")  # to a heading of a page of the repository


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Which models' start?", "which-models-start"),
        ("2. The theorem, checked", "2-the-theorem-checked"),
        ("`mnist_max`", "mnist_max"),
        ("A - b", "a---b"),
    ],
)
def test_a_heading_has_the_anchor_that_github_makes(heading, anchor):
    assert slug(heading) == anchor


def test_links_to_headings_lead_somewhere(repository):
    found = 0
    for page in [repository / "README.md", *(repository / "docs").glob("*.md")]:
        for target, anchor in LINK.findall(page.read_text()):
            path = page.parent / target if target else page
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor}"
            found += 1
    assert found > 30


READER = "docs/reader-questions.md"


def test_a_reader_asks_five_questions_of_every_page(repository):
    """Each is one item with one link, to a heading of the page that is asked."""
    reader = repository / READER
    _, *sections = re.split(r"^## ", reader.read_text(), flags=re.M)
    asked = {name: items for name, _, items in (part.partition("\n") for part in sections)}
    assert list(asked) == sorted(asked, key=str.lower), "in alphabetical order"
    pages = {path.stem: path for path in [*reader.parent.glob("*.md"), repository / "README.md"]}
    assert asked.keys() == pages.keys() - {reader.stem, "what-stands"}  # the last is a table
    for name, items in asked.items():
        _, *questions = re.split(r"^- ", items, flags=re.M)
        assert len(set(questions)) >= 5, name
        for question in questions:
            ((target, anchor),) = LINK.findall(question)
            assert (reader.parent / target).resolve() == pages[name], f"{name}: {question}"
            asks = question.partition("[")[0]
            assert asks.rstrip().endswith("?"), f"{name}: {question}"
            assert not re.search(r"\d", asks), "a page written by hand has no result"
            assert anchor in anchors(pages[name]), f"{name}: {question}"


WORDS = st.sampled_from(
    [
        "owls",
        "0.96 ± 0.26",
        "-",
        "1.",
        "#",
        "`a b c`",
        "77 %",
        "+",
        "0.1 [0.0, 0.2]",
        "a-b",
        "*",
        ">",
    ]
)


@settings(deadline=None)
@given(words=st.lists(WORDS, min_size=1, max_size=60), cuts=st.integers(1, 9))
def test_a_paragraph_keeps_its_words_however_it_was_broken(words, cuts):
    words = ["Text", *words]
    one = wrapping.wrapped(" ".join(words) + "\n")
    lines = [" ".join(words[i : i + cuts]) for i in range(0, len(words), cuts)]
    kept = [line for line in lines if re.match(r"(?:[-*+>|#=]|\d+[.)])(?: |$)", line)]
    assert " ".join(one.split()) == " ".join(" ".join(words).split())
    if not kept:  # else the broken text is another one
        assert wrapping.wrapped("\n".join(lines) + "\n") == one
    assert wrapping.wrapped(one) == one
    for line in one.splitlines():
        assert not re.match(r"(?:[-*+>|#=]|\d+[.)])(?: |$)", line), "a list, or a heading"
        assert line.count("`") % 2 == 0, "a code span is broken"
        assert not line.endswith(("0.96", "77", "±")), "a number is broken"


@pytest.mark.parametrize("mark", ["-", "+", "*", ">", "#", "##", "1.", "2)", "|", "="])
def test_no_line_begins_like_a_list_or_a_heading(mark):
    """However long the words before the mark are."""
    for length in range(wrapping.WIDTH - 5, wrapping.WIDTH):
        lines = wrapping.wrapped(f"a {'w' * (length - 2)} {mark} end\n").splitlines()
        assert not any(line.startswith(f"{mark} ") for line in lines)


def test_one_empty_line_is_left_of_several():
    assert wrapping.wrapped("Text\n\n\n\n# Title\n") == "Text\n\n# Title\n"


def test_what_is_no_prose_stays():
    table = f"| {'a' * 70} | {'b' * 70} |\n|---|---|"
    code = f"```bash\npython -m {'x ' * 80}\n\n    deep\n```\n\n    python -m {'y ' * 80}"
    page = f"# {'Title ' * 30}\n\n{table}\n\n{code}\n\n<!-- {'c ' * 80} -->\n"
    assert wrapping.wrapped(page) == page


def test_items_hang_and_end_where_others_begin():
    text = "- " + "word " * 30 + "\n  end\n- second\n\n1. first\n   goes on\n\nText\n"
    lines = wrapping.wrapped(text).splitlines()
    assert lines[0].startswith("- word")
    assert lines[1].startswith("  word")
    assert lines[1].endswith(" end")
    assert lines[2:] == ["- second", "", "1. first goes on", "", "Text"]
    assert max(map(len, lines)) <= wrapping.WIDTH
