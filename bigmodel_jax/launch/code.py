"""The code that a launched run executes: a git repository with its uncommitted changes, as one archive with a hash.

The archive depends on the content alone: the same files give the same bytes on every machine. Files that git ignores
stay behind; so do the repository's history and whatever is not a file or a link within the repository.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator, Sequence

import bigmodel_jax
from bigmodel_jax import config
from bigmodel_jax.run_directory import git

LARGEST_BYTES = 200 * 2**20
FRAMEWORK = 'bigmodel_jax_source'  # The folder of this package in the archive of another repository.
LAUNCH = re.compile(r'(^|/)launches/|\.launch/')  # Directories of launches, which hold such archives.
WHERE = 'ls-files', '--cached', '--others', '--exclude-standard', '--full-name', '-z', ':/'


@dataclasses.dataclass(frozen=True)
class PackedCode(config.Value):
    """An archive and what is in it."""

    archive: bytes
    root: pathlib.Path  # The repository of the experiment.
    framework: str  # As of Job.
    files: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.archive).hexdigest()


def pack(file: pathlib.Path) -> PackedCode:
    """The repository around an experiment file, and this package where it is in another one.

    Raises:
      InputError: one of them is not in a git repository, a link leads out of it, or the archive would be too large.
    """
    root, ours = _root(file.parent), _root(pathlib.Path(bigmodel_jax.__file__).parent)
    inside = root == ours
    found = dict(_contents(root, ''))
    if not inside:
        found |= dict(_contents(ours, f'{FRAMEWORK}/'))
    size = sum(path.lstat().st_size for path in found.values())
    if size > LARGEST_BYTES:
        largest = max(found, key=lambda name: found[name].lstat().st_size)
        raise config.InputError(
            f'{root} holds {size / 2**20:,.0f} MiB that git does not ignore; at most {LARGEST_BYTES >> 20} MiB of code '
            f'are sent. The largest is {largest}; name data and results in .gitignore.'
        )
    return PackedCode(_archive(found, root, ours), root, '.' if inside else FRAMEWORK, len(found))


def within(file: pathlib.Path, root: pathlib.Path) -> str:
    """The path of a file in its repository, as it will be in the archive."""
    return file.resolve().relative_to(root).as_posix()


def _root(folder: pathlib.Path) -> pathlib.Path:
    done = _git(folder, 'rev-parse', '--show-toplevel')
    if done is None:
        raise config.InputError(
            f'{folder} is not in a git repository, so it is not known which files a run needs. `git init` there is '
            'enough: nothing has to be committed, and .gitignore says what stays behind.'
        )
    return pathlib.Path(done.rstrip('\n')).resolve()


def _contents(root: pathlib.Path, folder: str) -> Iterator[tuple[str, pathlib.Path]]:
    """(name in the archive, path) of each file that git knows or does not ignore, and that is there."""
    listed = _git(root, *WHERE)
    for name in sorted(set((listed or '').split('\0')) - {''}):
        if LAUNCH.search(name):
            continue
        path = root / name
        if path.is_symlink() or path.is_file():
            yield f'{folder}{name}', path
        elif path.is_dir():
            raise config.InputError(f'{path} is a repository within the repository; its files would be missing.')


def _archive(found: dict[str, pathlib.Path], *roots: pathlib.Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(found):
            content = b'' if found[name].is_symlink() else found[name].read_bytes()
            tar.addfile(_member(name, found[name], len(content), roots), io.BytesIO(content))
    return out.getvalue()


def _member(name: str, path: pathlib.Path, size: int, roots: Sequence[pathlib.Path]) -> tarfile.TarInfo:
    """Of nobody, at no time: only names, contents, links and modes count."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o755 if os.access(path, os.X_OK) else 0o644
    if path.is_symlink():
        leads_out = not any(path.resolve().is_relative_to(root) for root in roots)
        if leads_out or os.path.isabs(os.readlink(path)):
            raise config.InputError(f'{path} is a link that leads out of its repository.')
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
    return member


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    said = git.ask(folder, *arguments, timeout_s=60)
    return None if said is None else os.fsdecode(said)
