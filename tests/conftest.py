"""The machine that every test sees: eight simulated CPU devices, and caches that live and die with the session."""

import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

import pytest

DEVICES = 8
# Files whose tests read source code or start subprocesses; alone, they run without importing jax.
WITHOUT_JAX = {'test_style.py', 'test_imports.py'}
WORKER = 'PYTEST_XDIST_WORKER' in os.environ  # pytest -n: the workers inherit the environment of the main process.


def pytest_configure(config: pytest.Config) -> None:
    """Points the caches away from the user's own. Environment variables, so that subprocesses inherit them."""
    if WORKER:
        return
    scratch = pathlib.Path(tempfile.mkdtemp(prefix='bigmodel_jax-tests-'))
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))
    os.environ['BIGMODEL_JAX_CACHE'] = str(scratch / 'cache')
    os.environ['TFDS_DATA_DIR'] = str(scratch / 'tfds')
    os.environ['JAX_PLATFORMS'] = 'cpu'
    # Most of the time goes into compiling small models; unoptimised code compiles twice as fast, under the same laws.
    fast_compile = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
    # One piece of code for each program; and no fusion emitters, where the version can do without: half again.
    fast_compile += ' --xla_cpu_parallel_codegen_split_count=1'
    if importlib.metadata.version('jaxlib').startswith('0.10.'):  # Others refuse to start with an unknown flag.
        fast_compile += ' --xla_cpu_use_fusion_emitters=false'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {fast_compile}'.strip()
    # Many tests compile the same small model; each program is compiled once in a session.
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(scratch / 'compiled')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'


@pytest.hookimpl(optionalhook=True)  # Of pytest-xdist.
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Gives a worker neighbouring tests, so that the two seldom make the fixtures of the same file."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Makes the devices, in this process only: a subprocess sees one, unless it asks for more."""
    # What was imported stays: the collector need not go through it again and again.
    gc.freeze()
    if all(item.path.name in WITHOUT_JAX for item in session.items):
        return
    import jax

    jax.config.update('jax_num_cpu_devices', DEVICES)
