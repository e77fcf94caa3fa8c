"""The report over checked-in runs: one page that needs nothing else, legible at any width."""

import html.parser
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import experiments
from experiments.findings import statistics
from experiments.frame import cli, experiment, record, reproduce
from experiments.report import explore, page
from tests import browser
from tests.experiments import counting

VOID = {"meta", "img", "br", "input", "link", "hr", "source"}
# The last has no criterion that holds.
SHOWN = ("mnist_aux_logits", "beyond_the_theorem", "multi_step", "microworld", "what_predicts")
PHONE, DESK = (390, 844), (1280, 800)


class Page(html.parser.HTMLParser):
    """What a page refers to and holds; tags that do not match raise."""

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.headings = [], [], [], [], []
        self.feed(source)
        assert not self.open, f"{self.open[-1]} is never closed"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.sources += [attrs[key] for key in ("src", "srcset") if key in attrs]
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(repository, tmp_path_factory):
    target = tmp_path_factory.mktemp("results")
    for name in SHOWN:
        shutil.copytree(repository / "experiments" / "results" / name, target / name)
    page.main([str(target)])
    return target


@pytest.fixture(scope="module")
def source(folder):
    return (folder / "report.html").read_text()


def values(source):
    """What the page's figure to turn holds."""
    return json.loads(re.search(r'id="explore-values">(.*?)</script>', source, re.S)[1])


def test_the_page_is_self_contained_and_its_links_lead_somewhere(source):
    page = Page(source)
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link.startswith("https://arxiv.org/") or link[1:] in page.ids, link
    assert page.sources
    assert all(s.startswith("data:image/svg+xml;base64,") for s in page.sources)
    assert "@import" not in source
    assert "url(" not in source
    assert "fetch(" not in source


def test_every_figure_number_and_command_is_there(folder, source):
    text = re.sub(r"\s+", " ", html.unescape(source))
    for name in SHOWN:
        module, meta = experiments.load(name), record.read_meta(folder / name)
        table, config = (
            record.read_table(folder / name),
            experiment.config_of(module, folder / name),
        )
        for figure in module.findings(table, config).figures:
            for sentence in (figure.title, figure.predicted, figure.found, figure.follows):
                assert " ".join(sentence.split()) in text
        for claim in module.findings(table, config).claims:
            assert claim.quantity in text
            assert claim.here in text
        flags = "" if config == module.Config() else " --"
        assert f"<code>python -m experiments {name}{flags}" in text
        if "seed" in meta["config"]:  # what_predicts reads runs of several
            assert f"root seed {meta['config']['seed']}" in text


def test_what_holds_comes_first_and_what_failed_after_it_each_linked(source):
    runs = {name: findings_of(name).claims for name in SHOWN}
    verdicts = [claim.holds for claims in runs.values() for claim in claims]
    holding, failed = verdicts.count(True), verdicts.count(False)
    head, _, rest = html.unescape(source).partition("</header>")
    said = " ".join(re.sub("<[^>]*>", "", head).split())
    assert f"{holding} criteria hold, {failed} do not." in said
    told, last = rest.split('<section id="failed"')
    for name, claims in runs.items():
        link = f'href="#failed-{name}"'
        missed = [claim for claim in claims if claim.holds is False]
        assert (link in head) == (f'id="failed-{name}"' in last) == bool(missed), "in the contents"
        assert all(f"<dd>{c.quantity}: {c.here}</dd>" in last for c in missed)
        hopeless = missed and not any(claim.holds for claim in claims)
        assert (f'<article id="{name}"' in last) == bool(hopeless) == (name == "what_predicts")
        assert (f'<article id="{name}"' in told) == (not hopeless)


def test_a_claim_a_figure_a_sentence_and_the_rest_folded(source):
    for name in SHOWN:
        article = re.search(f'<article id="{name}".*?</article>', source, re.S)[0]
        shown, _, folded = html.unescape(article).partition("<details>")
        first, *others = findings_of(name).figures
        assert f">{first.title}</h3>" in shown
        assert f"<figcaption>{first.found}</figcaption>" in shown
        assert shown.count("<img") == 1
        assert folded.count("<img") == len(others)
        assert "<table>" in folded


def test_headings_leave_no_level_out(source):
    levels = Page(source).headings
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def findings_of(name):
    module, out = experiments.load(name), experiments_results(name)
    return module.findings(record.read_table(out), experiment.config_of(module, out))


def experiments_results(name):
    return experiments.path_of(name).parents[1] / "results" / name


def test_text_from_experiments_is_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "NAMES", (*experiments.NAMES, "counting"))
    monkeypatch.setattr(experiments, "load", lambda name: counting)
    monkeypatch.setattr(experiments, "path_of", lambda name: tmp_path / "mnist" / name)
    out = tmp_path / "results" / "counting"
    command = cli.Command(config=counting.Config(), out=out, replot=False, overwrite=False)
    experiment.run(counting, "counting", command, "python -m experiments counting")
    source = page.build(tmp_path / "results")
    Page(source)
    assert "Random numbers &lt;are&gt; random" in source
    assert "mean &lt;value&gt;" in source
    assert "<are>" not in source
    assert "<value>" not in source
    assert "explore-values" not in source, "no view without its table"


def test_an_empty_folder_and_an_unknown_run_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        page.main([str(tmp_path)])
    assert "python -m experiments mnist_aux_logits" in capsys.readouterr().err
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "figure.svg").write_text("<svg/>")
    (tmp_path / "old" / "config.json").write_text('{"experiment": "forgotten"}')
    with pytest.raises(SystemExit):
        page.main([str(tmp_path)])
    error = capsys.readouterr().err
    assert "a run of forgotten, which this version does not have" in error
    assert error.count("\n") == 1


def test_a_figure_that_was_never_drawn_is_one_line(folder, tmp_path):
    shutil.copytree(folder / "microworld", tmp_path / "microworld")
    (tmp_path / "microworld" / "matrix.svg").unlink()
    with pytest.raises(record.RunFolderError, match=r"matrix\.svg is missing; .*--replot"):
        page.build(tmp_path)


def test_the_figure_to_turn_shows_the_table(source, folder):
    shown = {view["experiment"]: view for view in values(source)}
    table = record.read_table(folder / "multi_step")
    view = shown["multi_step"]
    for line in view["lines"]:
        images = int(line["name"].replace(",", ""))
        for x, cell in zip(view["x"], line["cells"], strict=True):
            mine = table[(table.method == "Adam") & (table.num_images == images)]
            runs = mine.loc[mine.num_aux == int(x), "accuracy"]
            mean, half = statistics.mean_interval(runs)
            assert (cell["mean"], cell["half"]) == pytest.approx((mean, half))
            assert cell["runs"] == len(runs) > 1


def test_another_table_is_one_line_more():
    """As a sweep over the number of auxiliary logits would be added."""
    rows = [
        {"value": f"{m}", "start": start, "seed": seed, "accuracy": np.float64(m / 100 + seed / 50)}
        for m in (50, 1, 3)
        for start in ("same", "other")
        for seed in range(4)
        if (m, start) != (1, "other")
    ]
    rows.append({"value": "a word", "start": "same", "seed": 0, "accuracy": -1.0})
    labels = ("auxiliary logits", "accuracy", "start")
    line = explore.View(
        experiment="sweep",
        title="How many?",
        rows="accuracy >= 0",
        x="value",
        y="accuracy",
        series="start",
        labels=labels,
        note="note",
    )
    (view,) = explore.views({"sweep": pd.DataFrame(rows), "other": pd.DataFrame()}, [line])
    assert view["x"] == ["1", "3", "50"], "ascending, whatever the order of the rows"
    same, other = view["lines"]
    assert other["cells"][0] == {"mean": None, "half": 0.0, "runs": 0}
    expected = statistics.mean_interval([0.03, 0.05, 0.07, 0.09])
    assert (same["cells"][1]["mean"], same["cells"][1]["half"]) == pytest.approx(expected)
    json.dumps(view, allow_nan=False)


# The page in a browser, as wide as a phone and as a desk.


@pytest.fixture(scope="module")
def window(folder, tmp_path_factory):
    """(width, height), dark -> the browser with the report open."""
    with browser.browser(tmp_path_factory.mktemp("profile")) as tab:

        def show(size, dark=False):
            tab.open(folder / "report.html", width=size[0], height=size[1], dark=dark)
            return tab

        yield show


UNFOLD = "for (const part of document.querySelectorAll('main details')) part.open = true"
STICKS_OUT = """[...document.querySelectorAll("body *")]
  .filter((e) => !e.closest(".scroll, pre, svg, .skip"))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.tagName + "." + e.className)"""
FIRST = """[document.querySelector("figure img").getBoundingClientRect()]
  .map((box) => [box.top, box.bottom])[0]"""
PICTURES = """[...document.querySelectorAll("img")].map((e) => ({
  alt: e.alt, drawn: e.naturalWidth > 0, scale: e.clientWidth / e.naturalWidth,
  narrow: e.currentSrc === e.parentElement.querySelector("source").srcset }))"""


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_nothing_scrolls_sideways_and_the_first_figure_is_seen_at_once(window, size):
    tab = window(size)
    assert tab.value("innerWidth") == size[0]
    top, bottom = tab.value(FIRST)
    assert 0 < top < bottom <= size[1], "the first figure, without scrolling"
    answer = tab.value("document.querySelector('output').textContent")
    assert "angle between the starts" in answer, "the figure to turn has been drawn"
    tab.value(UNFOLD)
    assert tab.value("document.scrollingElement.scrollWidth") <= size[0]
    assert tab.value(STICKS_OUT) == []
    for picture in tab.value(PICTURES):
        assert picture["alt"]
        assert picture["drawn"]
        assert picture["narrow"] == (size == PHONE)
        # Letters of 8 points on a phone, of 10 on a page: none is shown below 7.2.
        assert picture["scale"] >= (0.9 if size == PHONE else 0.72), picture


def test_the_keyboard_reaches_the_results_past_the_contents(window):
    tab = window(DESK)
    tab.press("Tab")
    assert tab.value("document.activeElement.className") == "skip"
    assert tab.value("document.activeElement.getBoundingClientRect().left") == 0, "it is seen"
    tab.press("Enter")
    assert tab.value("document.activeElement.id") == "results"
    tab.press("Tab")
    assert tab.value("document.activeElement.closest('main') !== null")
    assert tab.value("[...document.querySelectorAll('[tabindex]')].every((e) => e.tabIndex <= 0)")


def test_a_print_shows_what_is_open_and_cuts_no_figure(window):
    tab = window(DESK, dark=True)
    assert tab.value("getComputedStyle(document.querySelector('img')).filter") != "none"
    tab.value("document.querySelector('article details').open = true")
    tab.call("Emulation.setEmulatedMedia", media="print")
    shown = "[...document.querySelectorAll('{}')].map((e) => getComputedStyle(e).{})"
    assert tab.value(shown.format("article > details[open]", "display")) == ["block"]
    for left_out in ("nav", ".skip", "form", "article > details:not([open])"):
        assert set(tab.value(shown.format(left_out, "display"))) == {"none"}
    assert set(tab.value(shown.format("figure", "breakInside"))) == {"avoid"}
    page_of_a4 = (29.7 - 2) / 2.54 * 96  # pixels between margins of a centimetre
    heights = "[...document.querySelectorAll('figure')].map((e) => e.clientHeight)"
    assert max(tab.value(heights)) < page_of_a4
    assert tab.value(shown.format("body", "backgroundColor")) == ["rgb(255, 255, 255)"]
    assert tab.printed().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_axe_finds_nothing_that_keeps_people_out(window, size, dark):
    tab, source = window(size, dark), browser.axe()
    tab.value(UNFOLD)
    tab.value(source + ";0")
    found = tab.value("axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html]))")
    assert found == []


def test_the_command_shown_makes_the_config():
    smoke = experiments.load("multi_step").SMOKE  # numbers, tuples and words
    loud = counting.Config(num_parts=2, names=("c",), verbose=True)
    for module, config in ((experiments.load("multi_step"), smoke), (counting, loud)):
        flags = cli.flags_of(config, module.Config())
        parsed = cli.parse(
            "name", "", default=module.Config(), smoke=module.SMOKE, argv=flags
        ).config
        assert record.plain(parsed) == record.plain(config)
        assert "--verbose" not in flags, "it changes no result"


def test_every_step_of_the_main_job_has_flags_that_its_experiment_takes():
    first, *names, last = reproduce.STEPS
    assert (first, last) == ("equality_cases", "report"), "seconds long: a figure at once"
    assert names == [name for name in experiments.NAMES if name in names], "in reading order"
    for name in (first, *names):
        module = experiments.load(name)
        cli.parse(name, "", default=module.Config(), smoke=module.SMOKE, argv=reproduce.STEPS[name])


def test_the_main_job_looks_for_mnist_once(monkeypatch, capsys):
    from mnist_mlp import data

    def nowhere(name):
        raise data.DataNotFoundError("no MNIST")

    monkeypatch.setattr(data, "load", nowhere)
    assert reproduce.environment()["SUBLIMINAL_OFFLINE"] == "1"
    assert capsys.readouterr().out == "note: no MNIST\n"
    monkeypatch.setattr(data, "load", lambda name: None)
    assert "SUBLIMINAL_OFFLINE" not in reproduce.environment()


def test_the_main_job_leaves_out_the_real_model_where_its_weights_are_not_had(monkeypatch, capsys):
    from llm import fetch

    def nowhere(name, out, hub):
        raise ValueError("no network")

    monkeypatch.setattr(fetch, "fetch", nowhere)
    assert list(reproduce.steps()) == [name for name in reproduce.STEPS if name != "real_model"]
    assert capsys.readouterr().out == "note: without real_model: no network\n"
    monkeypatch.setattr(fetch, "fetch", lambda name, out, hub: None)
    assert reproduce.steps() == reproduce.STEPS


@pytest.mark.slow
def test_the_report_command_runs_in_a_process(folder, repository):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "experiments", "report", str(folder)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "quiet"
    assert str(folder / "report.html") in done.stdout
