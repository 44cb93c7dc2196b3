"""Compiled programs are kept in the work directory, so that a run that goes on does not compile again."""

import contextlib
from collections.abc import Iterator

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

FOLDER = 'compile_cache'


@contextlib.contextmanager
def kept_in(workdir: epath.Path) -> Iterator[None]:
    """Within this context JAX keeps what takes it a second to compile in the work directory, local or gs://.

    Where it keeps it elsewhere already (JAX_COMPILATION_CACHE_DIR), or is told not to (JAX_ENABLE_COMPILATION_CACHE=0),
    it stays so. Of several processes all read and the first one writes.
    """
    if jax.config.values['jax_compilation_cache_dir'] is not None:
        yield
        return
    # JAX looks at its setting once, when it first compiles; reset_cache() lets it look again.
    jax.config.update('jax_compilation_cache_dir', str(workdir / FOLDER))
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update('jax_compilation_cache_dir', None)
        compilation_cache.reset_cache()
