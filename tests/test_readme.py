"""README.md and docs/: every number is that of a checked-in table, every command and link works."""

import functools
import re
import shlex

import pytest

import experiments
import llm.__main__
from experiments import __main__ as door
from experiments.lab import cli
from tests import facts

PAGES = tuple(facts.NUMBERS)
CRITERION = re.compile(r"\(slope \d ± 0\.05")  # what was asked, not what was found


def plain(text):
    """A page without emphasis and line breaks."""
    return re.sub(r"\s+", " ", text.replace("**", ""))


@functools.cache
def expected(page):
    """Intervals in reading order, and phrases."""
    return list(facts.NUMBERS[page]()), list(facts.PHRASES[page]())


def differences(page, text):
    """What a page says otherwise than the tables: one line each, none if it is right."""
    body = plain(text)
    said = facts.INTERVAL.findall(CRITERION.sub("", body).replace("+", ""))
    true, phrases = expected(page)
    wrong = [
        f"{page}: interval {i + 1} is {a}, the tables say {b}"
        for i, (a, b) in enumerate(zip(said, true, strict=False))
        if a != b
    ]
    if len(said) != len(true):
        wrong.append(f"{page} has {len(said)} intervals, tests/facts knows {len(true)}")
    missing = [phrase for phrase in phrases if phrase not in body]
    return wrong + [f"{page} does not say {phrase!r}" for phrase in missing]


@pytest.mark.parametrize("page", PAGES)
def test_numbers_are_those_of_the_tables(page, repository):
    assert not differences(page, (repository / page).read_text())


def test_every_page_is_compared(repository):
    pages = {str(p.relative_to(repository)) for p in (repository / "docs").glob("*.md")}
    assert pages | {"README.md"} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_changed_number_is_found(page, repository):
    """Each result in turn, with another last digit."""
    text = (repository / page).read_text()
    results = list(facts.INTERVAL.finditer(CRITERION.sub(lambda m: "#" * len(m[0]), text)))
    for match in results:
        digit = text[match.end() - 1]
        changed = text[: match.end() - 1] + str((int(digit) + 1) % 10) + text[match.end() :]
        assert differences(page, changed), match[0]
    for phrase in expected(page)[1]:
        assert differences(page, plain(text).replace(phrase, "#")), phrase


def commands(text):
    """The lines of fenced blocks that start with python, joined where they go on."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(python -m experiments [a-z_]+)`", text)
    return [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]


@pytest.mark.parametrize("page", PAGES)
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


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "theory/README.md"])
def test_links_and_pictures_exist(page, repository):
    path = repository / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), f"{page}: {target}"


def test_the_readme_has_two_screens(repository):
    lines = (repository / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 140
