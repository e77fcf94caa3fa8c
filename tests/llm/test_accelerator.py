"""The benchmark of a GPU, at toy sizes: a run that is cut off leaves its numbers, and they fit."""

import json

import pytest

from benchmarks import accelerator, llm_shapes, parts
from llm import plan

(TOY,) = llm_shapes.TOYS


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def found(name):
    """Rows of a part by their quantity."""
    return {row.quantity: row.value for row in parts.PARTS[name].measure(True)}


def test_operations_follow_the_stated_convention(monkeypatch):
    monkeypatch.setattr(parts, "matmul_rate", lambda smoke: 1e12)
    rows = found("7B LoRA")
    weights = plan.matmul_weights(TOY.config)
    assert rows["4 N a token"] == pytest.approx(4 * weights * rows["training"] / 1e12)
    assert rows["share of the matrix product"] == pytest.approx(rows["4 N a token"])
    assert plan.flops_per_token(TOY.config, None) == 6 * weights


def test_sampling_is_timed_in_its_two_parts():
    rows = found("7B sampling")
    tokens = TOY.prompts * TOY.num_new
    seconds = TOY.prompts * TOY.prompt_length / rows["prefill"]
    seconds += TOY.prompts * (TOY.num_new - 1) / rows["decoding"]
    assert rows["whole work"] == pytest.approx(tokens / seconds)
    assert 0 < rows["share of the limit"] < 1


def test_numbers_are_in_the_file_when_a_part_fails(tmp_path, monkeypatch):
    def breaks(smoke):
        yield parts.Row("case", "first", 1.0, "s")
        raise RuntimeError("no\nkernel")

    monkeypatch.setitem(parts.PARTS, "card", parts.Part(breaks, 1))
    with pytest.raises(SystemExit):
        accelerator.main(["--part", "card", "--out", str(tmp_path / "x")])
    first, last = rows_of(tmp_path / "x")
    assert first == dict(part="card", case="case", quantity="first", value=1.0, unit="s")
    assert last["value"] == "RuntimeError: no kernel"


def test_a_part_is_ended_when_its_time_is_over(tmp_path, capfd):
    accelerator.run_part("microworld", tmp_path / "x", smoke=True, seconds=0.3, alone=False)
    assert [row["quantity"] for row in rows_of(tmp_path / "x")] == ["cut off"]
    accelerator.main(["--smoke", "--seconds", "1", "--only", "card", "--out", str(tmp_path / "y")])
    assert [row["quantity"] for row in rows_of(tmp_path / "y")] == ["versions", "left out"]
    assert "14,110 tokens/s" in capfd.readouterr().out


@pytest.mark.slow
def test_the_whole_smoke_run(tmp_path):
    accelerator.main(["--smoke", "--seconds", "900", "--out", str(tmp_path / "x")])
    rows = rows_of(tmp_path / "x")
    assert {row["part"] for row in rows} == {"run", *parts.PARTS}
    assert not [row for row in rows if row["quantity"] == "failed"]
