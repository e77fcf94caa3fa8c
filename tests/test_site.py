"""The site, built: every page and the report are there, and none asks another server for anything.

The tools are those of the dependency group `site`.
"""

import html.parser
import re
import subprocess
import sys
import urllib.parse

import pytest

LOADED = {  # what a browser fetches by itself, by tag
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "srcset",
    "link": "href",
}
NOT_LOADED = {"canonical", "search", "index", "next", "prev", "author", "copyright"}  # rel of links


class Requests(html.parser.HTMLParser):
    """What a page loads, and where its links lead."""

    def __init__(self, source):
        super().__init__()
        self.loads, self.links = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag in LOADED and attrs.get("rel") not in NOT_LOADED and attrs.get(LOADED[tag]):
            self.loads.append(attrs[LOADED[tag]])


def is_elsewhere(address):
    return bool(re.match("(https?:)?//", address))


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory):
    pytest.importorskip("sphinx", reason="the dependency group `site` is not installed")
    target = tmp_path_factory.mktemp("site")
    command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs/site", ".", str(target)]
    done = subprocess.run(
        [sys.executable, *command], cwd=repository, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return target


def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}


@pytest.mark.slow
def test_no_page_asks_another_server_for_anything(site):
    for name, source in pages(site).items():
        assert not list(filter(is_elsewhere, Requests(source).loads)), name
        assert "@import" not in source, name
    for path in site.rglob("*.css"):
        loaded = re.findall(r"url\(\s*[\"']?([^\"')]*)|@import\s+[\"']([^\"']*)", path.read_text())
        assert not [one for pair in loaded for one in pair if is_elsewhere(one)], path


@pytest.mark.slow
def test_every_page_the_report_the_reference_and_the_search_are_there(site, repository):
    built = pages(site)
    for path in (repository / "docs").glob("*.md"):
        assert f"docs/{path.stem}.html" in built
        assert f"docs/{path.stem}.html" in built["index.html"], "in the contents"
    assert built["index.html"] == built["README.html"]
    assert '<section id="failed"' in built["report.html"]
    for function in ("theory.check.verify", "theory.steps.student_update", "theory.ntk.krylov"):
        assert f'id="{function}"' in built["docs/site/theory.html"]
    assert "search.html" in built
    assert "student_update" in (site / "searchindex.js").read_text()


@pytest.mark.slow
def test_links_within_the_site_lead_somewhere(site):
    for name, source in pages(site).items():
        for link in Requests(source).links:
            path = urllib.parse.urlsplit(link)
            if not path.scheme and path.path:
                assert ((site / name).parent / urllib.parse.unquote(path.path)).exists(), link
