"""Settings of the whole suite, and the data that several folders of it share."""

import os
import pathlib
import subprocess
import sys

from experiments.frame import compiling

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Four simulated devices, before JAX starts: sharded results must equal those of one device.
# No optimisation, no splitting into parallel pieces: compilation takes a third of its time, and
# most of the time of the suite is compilation.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_cpu_parallel_codegen_split_count=1 "
    + compiling.quickly(level=0),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# A program is compiled once, for all tests, the processes that they start, and later runs: also the
# smallest, of which there are most.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need a model hub
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Shapes and types in annotations are checked at every call of these modules: all that compute.
# What only handles text is left out, it is called for every word.
_TEXT = {"carriers", "settings", "text", "traits", "world"}
_LLM = [f"llm.{p.stem}" for p in (ROOT / "llm").iterdir() if p.stem not in _TEXT]
_LLM += ["llm.text.language", "llm.world.corpus"]
install_import_hook(["theory", "mnist_mlp", *_LLM], "beartype.beartype")

from mnist_mlp import data  # noqa: E402

# Files whose tests compile whole chains and engines: most of the suite's time. `make test` leaves
# them out, `make test-thorough` and CI run them.
THOROUGH = {
    "test_answers",
    "test_benchmark",
    "test_checkpoint",
    "test_cli",
    "test_commands",
    "test_conditions",
    "test_contributing",
    "test_finetune",
    "test_full_size",
    "test_gguf",
    "test_grid",
    "test_identity",
    "test_imitation",
    "test_meshes",
    "test_microworld",
    "test_more_questions",
    "test_odd_configs",
    "test_predictors",
    "test_real_model_alignment",
    "test_report",
    "test_sampling",
    "test_served",
    "test_sharding",
    "test_stack",
    "test_stacking",
    "test_stages",
    "test_store",
    "test_theory_experiments",
    "test_train",
}


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items):
    """Mark the tests of these files."""
    for item in items:
        if item.path.stem in THOROUGH:
            item.add_marker("thorough")


@pytest.fixture(scope="session")
def mnist() -> data.ImageData:
    """Real MNIST; a test that needs it is skipped where none can be had."""
    try:
        return data.load("mnist")
    except data.DataNotFoundError as error:
        pytest.skip(f"no MNIST: {error}")


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the checkout."""
    return ROOT


# With users' flags: a hundred steps take longer than optimising their program does.
TRAIN = """
import pathlib, sys
from llm.stages import Pretrained, Store
chains = (0, 1, 10_000, 10_001)  # and of a stranger for each, as `chains.different` names them
Store(pathlib.Path(sys.argv[1])).make([Pretrained(chain=chain, steps=150) for chain in chains])
"""


@pytest.fixture(scope="session")
def bases(tmp_path_factory) -> pathlib.Path:
    """A store's folder with bases of the microworld, made once for all workers."""
    work = tmp_path_factory.getbasetemp().parent / "bases"  # a store locks what it makes
    environment = os.environ | {"XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", TRAIN, str(work)], check=True, cwd=ROOT, env=environment)
    return work


@pytest.fixture(scope="module", autouse=True)
def _forgotten_programs():
    """Programs of a module are not kept for the next: all together they fill gigabytes."""
    yield
    jax.clear_caches()
