"""How XLA compiles quickly, for smoke runs and tests: most of their time is compilation."""

from importlib.metadata import version


def quickly(level: int) -> str:
    """A value of XLA_FLAGS, to be set before JAX is first used.

    Args:
        level: of LLVM's optimisation, 0 to 3; at 0 a hundred steps of a base take longer than they
            save.
    """
    flags = f"--xla_backend_optimization_level={level}"
    # Newer versions have no such flag, and XLA ends the process at a flag that it does not know.
    old = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
    return f"{flags} --xla_cpu_use_fusion_emitters=false" if old else flags
