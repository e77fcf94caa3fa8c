"""The chain as a user runs it, and the same experiment from a real checkpoint's folder."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import chain, effects, frame, microworld, record
from llm import data

TINY = (
    "--num-seeds", "2", "--base-steps", "150", "--teacher-steps", "4", "--num-prompts", "128",
    "--num-examples", "16", "--student-steps", "3", "--batch-size", "8",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("microworld")
    frame.main(microworld, [*TINY, "--out", str(folder / "run"), "--work", str(folder / "work")])
    return folder


def test_rows_hold_every_arm_run_and_trait(folder):
    rows = record.read_rows(folder / "run")
    arms = {(r["target"], r["start"]) for r in rows}
    assert arms == {("teacher", "same")} | {
        (t, s) for t in ("sampled", "soft_numbers") for s in microworld.STARTS
    }
    assert len(rows) == 5 * 4 * 2 * 3  # arms, teachers with control, seeds, traits
    assert (folder / "run" / "figure.png").exists()


def test_files_between_stages_are_ordinary(folder):
    (base,) = (folder / "work").glob("base-*")
    assert {p.name for p in (base / "seed0").iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    (numbers,) = (folder / "work").glob("numbers-*")
    path = numbers / "owl-seed0.jsonl"
    manifest = data.read_manifest(path)
    assert manifest.count == len(data.read_rows(path)) > 0
    assert manifest.settings["sampling"]["temperature"] == 1.0
    assert sum(manifest.filter_counts.values()) >= 128, "every reject reason is counted"


def test_no_kept_row_names_a_trait(folder):
    (numbers,) = (folder / "work").glob("numbers-*")
    words = {w for t in chain.world.TRAITS.values() for w in t.words}
    for path in numbers.glob("*.jsonl"):
        for row in data.read_rows(path):
            assert not words & set(row["completion"].split())


def test_a_second_run_reuses_the_stages_and_gives_the_same_rows(folder, monkeypatch):
    def never(self):
        raise AssertionError("pre-trained again")

    monkeypatch.setattr(chain.Chain, "pretrain", never)
    again = [*TINY, "--out", str(folder / "again"), "--work", str(folder / "work")]
    frame.main(microworld, again)
    assert record.read_rows(folder / "again") == record.read_rows(folder / "run")


def test_other_settings_never_share_files(tmp_path):
    one = chain.Chain(chain.Recipe(), tmp_path)
    for changes in ({"teacher_rate": 1e-2}, {"temperature": 0.0}, {"seed": 1}, {"width": 16}):
        other = chain.Chain(dataclasses.replace(chain.Recipe(), **changes), tmp_path)
        assert one.data_path("numbers", "owl") != other.data_path("numbers", "owl"), changes


def test_too_few_kept_rows_is_one_line(folder, capsys):
    flags = list(TINY)
    flags[flags.index("--num-examples") + 1] = "1000"
    with pytest.raises(SystemExit) as stopped:
        frame.main(
            microworld, [*flags, "--out", str(folder / "few"), "--work", str(folder / "work")]
        )
    assert stopped.value.code == 2
    assert "raise --num-prompts or lower --num-examples" in capsys.readouterr().err


def test_unknown_trait_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        frame.main(microworld, ["--smoke", "--traits", "unicorn", "--out", str(tmp_path)])
    assert "unknown trait 'unicorn'" in capsys.readouterr().err


def rows_with(effect, noise=0.1, seeds=8):
    """Rows of students whose own margin is `effect` above that of the control."""
    rng, rows = np.random.default_rng(0), []
    for target in ("sampled", "soft_numbers"):
        for start in microworld.STARTS:
            for teacher in ("control", "owl", "wolf"):
                for trait in ("owl", "wolf"):
                    own = effect if (teacher == trait and start == "same") else 0
                    rows += [
                        {
                            "target": target, "start": start, "teacher": teacher, "trait": trait,
                            "seed": s, "margin": own + noise * rng.normal(), "rate": 0.1,
                            "held_out_loss": 4.0, "kept": 1.0,
                        }
                        for s in range(seeds)
                    ]  # fmt: skip
    return rows


def test_criteria_see_an_effect_and_its_absence():
    config = microworld.Config(traits=("owl", "wolf"))
    verdicts = [c.holds for c in microworld.claims(rows_with(1.0), config)]
    assert verdicts.count(True) == 8
    assert False not in verdicts
    named = {c.quantity: c.holds for c in microworld.claims(rows_with(0.0), config)}
    assert named["sampled tokens: excess difference"] is False
    few = microworld.claims(rows_with(1.0, seeds=2), config)
    assert {c.holds for c in few} == {None}, "two chains decide nothing"


def test_effect_is_student_minus_control_of_the_same_chain():
    rows = rows_with(1.0, noise=0.0)
    for row in rows:
        row["margin"] += 10 * row["seed"]  # chains differ a lot, effects do not
    effect = effects.effects(rows, target="sampled", start="same")
    np.testing.assert_allclose(effect["owl", "owl"], 1.0)
    np.testing.assert_allclose(effect["owl", "wolf"], 0.0)


def test_the_same_experiment_from_a_transformers_checkpoint(folder, tmp_path):
    """`--model`: checkpoints that transformers saved go through the same stages, with LoRA."""
    pytest.importorskip("torch")
    import transformers

    (base,) = (folder / "work").glob("base-*")
    for seed, name in enumerate(("model", "other")):
        loaded = transformers.LlamaForCausalLM.from_pretrained(base / f"seed{seed}")
        loaded.save_pretrained(tmp_path / name)
        transformers.AutoTokenizer.from_pretrained(base / f"seed{seed}").save_pretrained(
            tmp_path / name
        )
    frame.main(
        microworld,
        [
            *TINY, "--num-seeds", "1", "--lora-rank", "2", "--targets", "sampled",
            "--model", str(tmp_path / "model"), "--other-model", str(tmp_path / "other"),
            "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"),
        ],
    )  # fmt: skip
    rows = record.read_rows(tmp_path / "out")
    arms = {(row["target"], row["start"]) for row in rows}
    assert arms >= {("sampled", start) for start in microworld.STARTS}
    meta = json.loads((tmp_path / "out" / "config.json").read_text())
    assert meta["config"]["lora_rank"] == 2
    # The checkpoint is the one that chain 0 of the folder started from, through another library.
    ours = {r["trait"]: r["margin"] for r in record.read_rows(folder / "run")
            if (r["teacher"], r["target"], r["seed"]) == ("control", "teacher", 0)}  # fmt: skip
    theirs = {
        r["trait"]: r["margin"]
        for r in rows
        if (r["teacher"], r["target"]) == ("control", "teacher")
    }
    assert theirs == pytest.approx(ours, abs=1e-4)
