"""Rows of a user's own file: kept whole, or refused with the line."""

import json

import pytest

from llm.stages import rows

USER, ASSISTANT = {"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}
SYSTEM = {"role": "system", "content": "be kind"}


def written(tmp_path, *entries):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    return str(path)


def test_a_pair_is_a_row(tmp_path):
    path = written(tmp_path, {"messages": [USER, ASSISTANT]}, {"prompt": "p", "completion": "c"})
    assert rows.read(path) == [{"prompt": "p", "completion": "c"}] * 2


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([SYSTEM, USER, ASSISTANT, USER, ASSISTANT], "system, user, assistant, user, assistant"),
        ([SYSTEM, USER, ASSISTANT], "system, user, assistant"),
        ([USER, ASSISTANT, USER, ASSISTANT], "user, assistant, user, assistant"),
        ([ASSISTANT, USER], "assistant, user"),
        ([USER], "user"),
        ([], "none"),
    ],
)
def test_other_conversations_are_refused(tmp_path, messages, told):
    path = written(tmp_path, {"messages": [USER, ASSISTANT]}, {"messages": messages})
    with pytest.raises(ValueError, match=rf"line 2: .* has messages of {told}: cut it into pairs"):
        rows.read(path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"prompt": "p", "messages": [USER, ASSISTANT]}, "has messages and a prompt: leave out"),
        ({"prompt": "p"}, "needs text"),
        ({"messages": "p"}, "needs text"),
        ({"messages": [USER, {"role": "assistant", "content": ["c"]}]}, "needs text"),
        (["p", "c"], "needs text"),
    ],
)
def test_other_lines_are_refused(tmp_path, line, told):
    with pytest.raises(ValueError, match=rf"rows.jsonl, line 1: {told}"):
        rows.read(written(tmp_path, line))


def test_lines_end_at_line_feeds_only(tmp_path):
    row = {"prompt": "p\u2028\u2029\x85", "completion": "c\u2028\x1c"}
    path = written(tmp_path, row, {"prompt": "p", "completion": "c"})
    assert rows.read(path) == [row, {"prompt": "p", "completion": "c"}]
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "p", "completion": "c"}\r\n')
    assert rows.read(path) == [{"prompt": "p", "completion": "c"}]
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl is not UTF-8: .* at byte 12"):
        rows.read(path)
