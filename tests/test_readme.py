"""README.md and docs/: pages are those of their templates, every command and link works.

A number comes from a table, by an expression of `experiments/report/told.py`, or says where else it
is from: `given(".30", "arXiv 2507.14805")`. What is left in a template is a setting or a name, and
SETTINGS knows it.
"""

import dataclasses
import re
import shlex
import shutil
import tomllib

import pytest

import experiments
import llm.__main__
from experiments import __main__ as door
from experiments.frame import cli, experiment, presets
from experiments.report import docs, told

PAGES = tuple(map(docs.page_of, docs.templates()))
BY_HAND = ("docs/bring-your-own.md", "docs/reader-questions.md")  # which have no result
WHOLE = r"(?<![\d.])\d[\d,]*(?!\.?\d)"
UNIT = "(?:further )?(?:steps|epochs|rows|logits|sequences|auxiliary|seeds each)"
BEFORE = "(?:after|with|at|from|to|[Rr]ank|width|batch|(?:batches|pool) of)"
LIST = rf"{WHOLE}(?:(?:, | and | or | to ){WHOLE})*"
SETTINGS = {  # digits that may stand in a template: why
    r"arXiv \d{4}\.\d{5}": "a reference",
    r"\b(?:19|20)\d\d\b": "a year",
    r"(?m)^## \d\. ": "the number of a heading",
    r"(?:section|Theorem) \d(?:\.\d)?": "a place in a publication",
    r"(?:Python|CUDA|JAX of|\(not) \d[\d.]*": "a version",
    r"[A-Za-z]+[-\w.]*\d[-\w.]*(?:/[\d.x]+)*|(?:Gemma|Llama) [\d./x]+": "a name",
    r"\d[\d.]*[BM](?= (?:model|shapes|parameters|in|and))": "the size of a model, as a name",
    r"95 %": "the level of every interval",
    r"chance 0\.1": "one of ten digits",
    r"slope \d ± 0\.05": "the criterion for an order",
    r"\[(?:0|[-−]1), 1\]|\b[tT] = 1(?:0[⁰-⁹]+)?(?!\.?\d)": "a range, a time, a temperature",
    r"\d N (?:a|for)": "operations of a parameter and a token",
    rf"{LIST} GB\b": "memory of a card",
    r"\d(?:-| )bit\b": "a number format",
    r"\d{3}-\d{3}-\d{3} MLP|\d layers, width \d\d": "a shape",
    rf"{LIST} {UNIT}\b": "a setting, in its unit",
    rf"{BEFORE} {LIST}(?! %)": "the value of a setting",
    r"at 1e-\d": "a learning rate",
    r"numbers 0-127": "the tokens of a carrier",
    r"(?m)^\|.*\| student 1 \| 2 \| 3 \| 5 \| 10 \|$": "generations, the head of a table",
    r"\| [01] \|": "what an arm is compared with, itself",
    r"(?:is|be|kernels,|alignment) [01](?= (?:for|on|within)|; )": "by definition",
    r"429, 5xx": "answers of a server",
}
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.S)
CODE = re.compile(r"(?ms)^```.*?^```|^    .*?$|`[^`]+`|\]\([^)]*\)|<!--.*?-->")


def blanked(pattern, text):
    """The text with ~ in place of what the pattern finds, so that lines stay where they are."""
    return re.sub(pattern, lambda found: re.sub(r"\S", "~", found[0]), text)


def across_lines(pattern):
    """The pattern, for a text that may be broken at every space of it."""
    return pattern if "^" in pattern else pattern.replace(" ", r"\s+")


def by_hand(template):
    """Line and number of every digit in a template that nothing explains."""
    text = blanked(CODE, blanked(EXPRESSION, template))
    for pattern in SETTINGS:
        text = blanked(across_lines(pattern), text)
    for number in re.finditer(r"[-+]?\.?\d[\d.,]*", text):
        yield text.count("\n", 0, number.start()) + 1, number[0].rstrip(".,")


@pytest.fixture(scope="module")
def pages():
    return docs.rendered()


def difference(page, written, rendered):
    """Where a page differs from what its template says; empty if nowhere."""
    old, new = written.splitlines(), rendered.splitlines()
    for number, (a, b) in enumerate(zip(old, new, strict=False), 1):
        if a != b:
            return f"{page}, line {number}: {a!r} should be {b!r}; run make docs"
    return "" if written == rendered else f"{page} has another length; run make docs"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_that_of_its_template(page, pages, repository):
    assert not difference(page, (repository / page).read_text(), pages[page])


def test_every_page_has_a_template(repository):
    found = {str(path.relative_to(repository)) for path in (repository / "docs").glob("*.md")}
    assert found | {"README.md"} == {*PAGES, *BY_HAND}


@pytest.fixture
def results(tmp_path):
    """A copy of the checked-in runs, to change."""
    pictures = shutil.ignore_patterns("*.png", "*.svg")
    return shutil.copytree(told.RESULTS, tmp_path / "results", ignore=pictures)


def change(out, changed):
    """Write another claims.csv, of the claims as `changed` makes them."""
    claims = map(changed, told.read_claims(out))
    (out / "claims.csv").write_text(experiment.claims_text(list(claims)))


def test_another_run_makes_another_page(results, pages):
    """Each run that README quotes, in turn, with other digits in what its claims say.

    Of `capability` it takes the verdict alone.
    """

    def other_digits(claim):
        digits = re.sub(r"\d", lambda found: str((int(found[0]) + 1) % 10), claim.here)
        return dataclasses.replace(claim, here=digits)

    _, quoted = docs.render("README.md.jinja")
    assert len(quoted) > 10
    for name in sorted({name for name, _ in quoted}):
        before = (results / name / "claims.csv").read_text()
        change(results / name, other_digits)
        same = docs.render("README.md.jinja", results)[0] == pages["README.md"]
        assert same == (name == "capability"), name
        (results / name / "claims.csv").write_text(before)


@pytest.mark.parametrize(
    ("page", "name", "holds"),
    [
        ("README.md", "gradient_alignment", False),
        ("docs/theorem.md", "multi_step", True),
        ("docs/questions.md", "which_part", None),
    ],
)
def test_a_turned_verdict_asks_for_another_sentence(page, name, holds, results):
    template = page.removeprefix("docs/") + docs.ENDING
    docs.render(template, results)
    change(results / name, lambda claim: dataclasses.replace(claim, holds=holds))
    with pytest.raises(ValueError, match=rf"{template}, line \d+: this sentence needs a claim"):
        docs.render(template, results)


def test_the_first_line_that_differs_is_named():
    assert (
        difference("a.md", "x\n1\n", "x\n2\n") == "a.md, line 2: '1' should be '2'; run make docs"
    )
    assert difference("a.md", "x\n", "x\ny\n") == "a.md has another length; run make docs"
    assert not difference("a.md", "x\n", "x\n")


@pytest.mark.parametrize("template", docs.templates())
def test_no_number_is_written_by_hand(template):
    text = (docs.TEMPLATES / template).read_text()
    found = [f"{template}, line {line}: {number}" for line, number in by_hand(text)]
    assert not found, "from a table, or with its source: given(number, source)"


def test_no_number_is_written_by_hand_into_a_note():
    for name, note in docs.notes().items():
        assert not list(by_hand(note.why)), name


@pytest.mark.parametrize(
    "text",
    [
        "students have 0.96 nats",
        "students have 0.96 ± 0.26",
        "77 % of the tokens",
        "0 of 24,000 are negative",
        "a rank correlation of .85",
        "takes about 69 seeds",
        "the mean is at .23",
        "after 0.5 epochs",
        "reaches 46.1 to 52.5 %",
        "with 43 % of them",
        "| owl | 0.5 |",
    ],
)
def test_a_result_written_by_hand_is_found(text):
    assert list(by_hand(f"A line.\n\n{text}\n"))


def test_every_setting_is_one_of_some_page():
    texts = [
        blanked(CODE, blanked(EXPRESSION, p.read_text())) for p in docs.TEMPLATES.glob("*.jinja")
    ]
    for pattern, why in SETTINGS.items():
        assert any(re.search(across_lines(pattern), text) for text in texts), (
            f"no page has {why}: {pattern}"
        )


def test_every_preset_is_told(pages):
    for name in presets.names():
        assert f"| `{name}` |" in pages["docs/llm_numbers.md"]


def test_notes_are_of_claims_that_fail(tmp_path):
    """A note of a claim that holds now is an error, one that is missing is not."""
    (name, note), *_ = docs.notes().items()
    run = told.Run(told.RESULTS / name)
    asked = docs.asked(run, {name: note})
    assert set(asked) <= {claim.quantity for claim in run.failed}
    assert docs.asked(run, {}) == {}
    holding = next(claim.quantity for claim in run.claims if claim.holds)
    with pytest.raises(told.Untold, match="of its failed claims"):
        docs.asked(run, {name: docs.Note({holding: "?"})})
    good = told.Run(told.RESULTS / "mnist_aux_logits")
    with pytest.raises(told.Untold, match="none does"):
        docs.asked(good, {good.name: docs.Note({}, why="because")})


def test_notes_read_as_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "NOTES", tmp_path / "failed.toml")
    docs.NOTES.write_text("[a]\nasked = {}\nwhere = 'x'\n")
    with pytest.raises(ValueError, match=r"failed\.toml has \[experiment\] with asked and why"):
        docs.notes()
    docs.NOTES.write_text("[a")
    with pytest.raises(ValueError, match=r"failed\.toml has"):
        docs.notes()


def commands(text):
    """The lines of fenced blocks that start with python, joined where they go on."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(python -m experiments [a-z_]+)`", text)
    return [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]


@pytest.mark.parametrize("page", [*PAGES, *BY_HAND])
def test_commands_parse(page, repository):
    for words in commands((repository / page).read_text()):
        assert words[1] == "-m", words
        package, *arguments = words[2:]
        if package == "llm":
            llm.__main__.build_parser().parse_args(arguments)
        elif package == "experiments":
            name, *flags = arguments
            module = experiments.load(name) if name not in door.TOOLS else None
            if module:
                cli.parse(name, "", default=module.Config(), smoke=module.SMOKE, argv=flags)
        else:
            assert (repository / package.replace(".", "/")).with_suffix(".py").exists(), words


@pytest.mark.parametrize("page", [*PAGES, *BY_HAND, "CONTRIBUTING.md", "theory/README.md"])
def test_links_and_pictures_exist(page, repository):
    path = repository / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), f"{page}: {target}"


def test_the_readme_has_two_screens(repository):
    lines = (repository / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 140


def test_one_version_is_cited_packaged_and_told(repository):
    """In both packages, in the entry to cite, and on top of the changelog."""

    def text(name):
        return (repository / name).read_text(encoding="utf-8")

    names = ("pyproject.toml", "theory/pyproject.toml")
    packages = {tomllib.loads(text(name))["project"]["version"] for name in names}
    cited = re.search(r"(?m)^version: (\S+)\ndate-released: (\S+)$", text("CITATION.cff"))
    told = re.search(r"(?m)^## \[(\d\S*)\] - (\S+)$", text("CHANGELOG.md"))
    assert cited.groups() == told.groups()
    assert packages == {cited[1]}
