"""Compiled programs: kept where only their user writes, and never used when they are not what was written."""

import os
import stat

import jax
import jax.numpy as jnp
import pytest
from jax._src import compilation_cache as internal
from jax.experimental.compilation_cache import compilation_cache

from bigmodel_jax.hosts import compile_cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's cache, and JAX as it is where nobody chose another place. The test's own cache returns afterwards."""
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path / 'cache'))
    before = jax.config.values['jax_compilation_cache_dir']
    jax.config.update('jax_compilation_cache_dir', None)
    yield tmp_path / 'cache' / f'compiled-{os.geteuid()}'
    jax.config.update('jax_compilation_cache_dir', before)
    compilation_cache.reset_cache()


class Bare:
    """A compression that notices nothing, as zstd without a checksum hardly does."""

    class ZstdCompressor:
        compress = staticmethod(bytes)

    class ZstdDecompressor:
        decompress = staticmethod(bytes)


def computed():
    jax.clear_caches()
    with compile_cache.kept():
        return float(jax.jit(lambda x: jnp.sin(x) * 3 + 1)(jnp.float32(2)))


@pytest.mark.parametrize('zstandard', [None, Bare])
def test_a_flipped_bit_is_noticed_and_the_program_compiled_anew(home, monkeypatch, zstandard):
    monkeypatch.setattr(internal, 'zstandard', zstandard)
    wanted = computed()
    programs = {path: path.read_bytes() for path in home.iterdir()}
    assert programs
    for path, content in programs.items():
        for place in (10, 40, len(content) // 2, len(content) - 1):
            damaged = bytearray(content)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            assert compile_cache.CachedPrograms(home).get('x') is None
            assert computed() == wanted
            # Compiled again, and kept again: what it holds differs in the time that it took.
            assert path.read_bytes() != damaged
    assert {path.name for path in home.iterdir()} == {path.name for path in programs}


def test_what_is_kept_is_used(home):
    computed()
    written = {path: path.stat().st_ino for path in home.iterdir()}
    computed()
    assert {path: path.stat().st_ino for path in home.iterdir()} == written


def test_only_a_directory_of_ones_own_is_used(tmp_path):
    folder = compile_cache.private(tmp_path / 'new' / 'compiled')
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for mode in (0o770, 0o702, 0o704):  # Others could write or read it.
        folder.chmod(mode)
        assert compile_cache.private(folder) is None
    folder.chmod(0o700)
    (tmp_path / 'link').symlink_to(folder)
    assert compile_cache.private(tmp_path / 'link') is None
    (tmp_path / 'file').touch()
    assert compile_cache.private(tmp_path / 'file') is None
    assert compile_cache.private(tmp_path / 'file' / 'below') is None


def test_a_program_is_that_of_its_key(tmp_path):
    programs = compile_cache.CachedPrograms(tmp_path)
    programs.put('a', b'program a')
    assert programs.get('a') == b'program a'
    assert programs.get('b') is None
    # As when somebody renames a file.
    next(tmp_path.iterdir()).rename(programs._file('b'))
    assert programs.get('b') is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_used_last_stays_within_the_bound(tmp_path):
    programs = compile_cache.CachedPrograms(tmp_path, max_bytes=1_000)
    for number, key in enumerate('abc'):
        programs.put(key, bytes(250))
        os.utime(programs._file(key), (number, number))
    assert programs.get('a') is not None
    programs.put('d', bytes(250))
    assert [key for key in 'abcd' if programs.get(key) is not None] == ['a', 'c', 'd']


def test_a_kill_while_it_writes_leaves_no_program(tmp_path, monkeypatch):
    """The file is written under another name; what is left of it goes."""
    partial = tmp_path / f'x{compile_cache.ENDING}.1{compile_cache.PARTIAL}'
    partial.write_bytes(b'half')
    os.utime(partial, (0, 0))
    programs = compile_cache.CachedPrograms(tmp_path)
    programs.put('a', b'program')
    assert [path.suffix for path in tmp_path.iterdir()] == [compile_cache.ENDING]
