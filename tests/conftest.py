"""Fixtures and settings of the whole test suite."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# LLVM's dear passes over the random numbers of dropout would be most of the suite's time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
# A folder for each process: JAX does not lock the files it writes there.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "")))
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# The same examples in every run, however slow the machine is.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        default=str(ROOT / "tests" / "golden"),
        help="folder of vectors that torch oracles wrote (default: the stored ones)",
    )


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """The folder of vectors that the torch oracles wrote."""
    return Path(request.config.getoption("--golden"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets: where ADAPTERS_JAX_DATA points, else shared/data beside the repository."""
    folder = Path(os.environ.get("ADAPTERS_JAX_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        reason = f"real data: no folder {folder}; set ADAPTERS_JAX_DATA to one that holds glue/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def minilm():
    """The installed MiniLM backbone, loaded once."""
    import adapters_jax as aj

    return aj.load_backbone("minilm")


@pytest.fixture(autouse=True)
def strict_dtypes(request: pytest.FixtureRequest) -> Iterator[None]:
    """No implicit dtype promotion in the model; optax and Orbax themselves rely on it, so nowhere else."""
    strict = request.path.parent.name in ("bert", "methods")
    with jax.numpy_dtype_promotion("strict" if strict else "standard"):
        yield
