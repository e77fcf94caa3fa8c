import json

import pytest

from llm.text import data

SETTINGS = {"model": "tiny", "template": {"default_system": None}, "sampling": {"temperature": 1.0}}
ROWS = [{"prompt": f"p{i} é", "completion": f"{i}\u2028, {i}"} for i in range(5)]


def test_rows_and_manifest_come_back(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    written = data.append_rows(
        path, ROWS, settings=SETTINGS, filter_counts={"kept": 5, "too large": 2}, prompts=7
    )
    assert data.read_rows(path, SETTINGS) == ROWS
    assert data.read_manifest(path) == written
    assert (written.count, written.prompts, written.size) == (5, 7, path.stat().st_size)
    assert data.prompts_done(path, SETTINGS) == 7
    assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == ROWS


def test_append_adds_rows_and_counts(tmp_path):
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    data.append_rows(
        path, ROWS[:2], settings=SETTINGS, filter_counts={"kept": 2, "banned": 1}, prompts=3
    )
    manifest = data.append_rows(
        path, ROWS[2:], settings=SETTINGS, filter_counts={"kept": 3, "empty": 4}, prompts=7
    )
    assert manifest.prompts == 10
    assert manifest.filter_counts == {"kept": 5, "banned": 1, "empty": 4}
    assert data.read_rows(path, SETTINGS) == ROWS
    assert data.append_rows(whole, ROWS, settings=SETTINGS).sha256 == manifest.sha256


def test_an_interrupted_append_is_refused_and_then_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    data.append_rows(path, ROWS[:2], settings=SETTINGS)
    with open(path, "a") as file:
        file.write('{"prompt": "half a li' + 500 * "x")  # longer than what is appended below
    with pytest.raises(ValueError, match="521 bytes more than its manifest"):
        data.read_rows(path)
    data.append_rows(path, ROWS[2:], settings=SETTINGS)
    assert data.read_rows(path) == ROWS


def test_other_settings_are_never_reused(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert data.prompts_done(path, SETTINGS) == 0
    data.append_rows(path, ROWS, settings=SETTINGS, prompts=5)
    other = {**SETTINGS, "sampling": {"temperature": 0.7}, "model": "large"}
    for use in (
        data.read_rows,
        data.prompts_done,
        lambda p, s: data.append_rows(p, ROWS, settings=s),
    ):
        with pytest.raises(ValueError, match=r"model: 'tiny' .* sampling.temperature: 1.0 there"):
            use(path, other)
    assert data.read_rows(path, SETTINGS) == ROWS


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"p3", b"p9")), "changed after"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: data.manifest_path(path).unlink(), "no such file.*manifest"),
        (lambda path: data.manifest_path(path).write_text("{"), "not a manifest"),
    ],
)
def test_damage_is_named_by_readers_and_by_append(tmp_path, damage, message):
    path = tmp_path / "rows.jsonl"
    data.append_rows(path, ROWS, settings=SETTINGS)
    damage(path)
    with pytest.raises(ValueError, match=message):
        data.read_rows(path, SETTINGS)
    if data.manifest_path(path).exists():
        with pytest.raises(ValueError, match=message):
            data.append_rows(path, ROWS, settings=SETTINGS)


def test_bad_input_writes_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match=r"row 1 .* needs text"):
        data.append_rows(path, [ROWS[0], {"prompt": "p"}], settings=SETTINGS)
    with pytest.raises(ValueError, match="lack template, sampling"):
        data.append_rows(path, ROWS, settings={"model": "tiny"})
    assert list(tmp_path.iterdir()) == []


def test_lines_end_at_line_feeds_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS]
    data.append(path, "".join(lines).encode(), count=len(lines), settings=SETTINGS)
    assert data.read_rows(path) == ROWS
