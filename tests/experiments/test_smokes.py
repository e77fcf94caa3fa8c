"""Every smoke run of the microworld's experiments, end to end, in one folder of stage files.

They run under root seed 1, and every random stream that they draw from must be of that root.
"""

import pytest

import experiments
from experiments.frame import experiment, record
from llm.stages import bases, streams

NAMES = [
    name
    for name in experiments.NAMES
    if experiments.path_of(name).parent.name == "language" and not name.startswith("llm_")
]

# The text that every model is tested on is one, whatever the root seed: no base trains on it.
HELD_OUT = (streams.Stage.CORPUS, 0, 0, bases.HELD_OUT_CORPUS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("smokes")


@pytest.fixture
def roots(monkeypatch):
    """The root seeds that streams are drawn from while a test runs."""
    drawn, keys, generator = set(), streams.keys, streams.generator

    def watched_keys(stage, names):
        drawn.update(name[0] for name in names)
        return keys(stage, names)

    def watched_generator(stage, *name):
        if (stage, *name) != HELD_OUT:
            drawn.add(name[0])
        return generator(stage, *name)

    monkeypatch.setattr(streams, "keys", watched_keys)
    monkeypatch.setattr(streams, "generator", watched_generator)
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_smoke_run_makes_table_claims_and_figures(name, folder, capsys, roots):
    module = experiments.load(name)
    work = ["--work", str(folder / "work")]
    # what_predicts looks at arms of other experiments, which have settings of their own.
    seed = [] if name == "what_predicts" else ["--seed", "1"]
    experiment.main(module, ["--smoke", "--out", str(folder / name), *work, *seed])
    assert roots <= ({1} if seed else {0}), "a stream of another root seed"
    table = record.read_table(folder / name)
    assert len(table)
    for log_odds in {"margin", "odds"} & set(table):  # never alone: they may lie within a residue
        beside = table.loc[table[log_odds].notna(), ["mass", "text_loss"]]
        assert beside.notna().all(axis=None)
    drawn = {figure.name for figure in module.findings(table, module.SMOKE).figures}
    assert drawn == {path.stem for path in (folder / name).glob("*.png")}
    assert "here (95 %)" in capsys.readouterr().out
