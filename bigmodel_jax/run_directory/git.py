"""The state of a git repository, asked so that nothing which its configuration names is run."""

import hashlib
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

DIFF_LIMIT = 1_000_000  # Characters; a larger diff is cut, and says so.
UNTRACKED_FILES, UNTRACKED_BYTES = 200, 2**20  # More, or larger ones, are counted and not hashed.
CODE = ('.py', '.pyx', '.c', '.cc', '.cpp', '.cu', '.h', '.sh', '.toml')  # The untracked files that are hashed.
# A file system monitor and hooks are programs that a repository can name.
SAFE = ('-c', 'core.fsmonitor=false', '-c', 'core.hooksPath=/dev/null', '-c', 'core.untrackedCache=false')
DIFF = ('diff', 'HEAD', '--no-ext-diff', '--no-textconv', '--no-color', '--ignore-submodules=dirty')


def describe(folder: pathlib.Path) -> dict[str, Any] | None:
    """Commit, branch, uncommitted changes and untracked files of the repository around `folder`.

    None where there is none, or git does not answer. 'dirty' says whether tracked files are changed; 'untracked' how
    many files git does not know and does not ignore, with the SHA-256 of those that are code.
    """
    commit = _git(folder, 'rev-parse', 'HEAD')
    if commit is None:
        return None
    filters = list(_without_filters(folder))
    diff = _git(folder, *filters, *DIFF)
    if diff is not None and len(diff) > DIFF_LIMIT:
        diff = f'{diff[:DIFF_LIMIT]}\n... cut; {len(diff)} characters in all.'
    branch = _git(folder, 'rev-parse', '--abbrev-ref', 'HEAD')
    dirty = None if diff is None else bool(diff)
    return {'commit': commit, 'branch': branch, 'dirty': dirty, 'diff': diff, 'untracked': _untracked(folder)}


def _without_filters(folder: pathlib.Path) -> Iterator[str]:
    """Options that turn off the filters that the repository itself names; those of the person, such as LFS, stay."""
    names = _git(folder, 'config', '--local', '--name-only', '--get-regexp', r'^filter\.') or ''
    for name in names.splitlines():
        value = 'false' if name.endswith('.required') else ''
        yield from ('-c', f'{name}={value}')


def _untracked(folder: pathlib.Path) -> dict[str, Any] | None:
    root = _git(folder, 'rev-parse', '--show-toplevel')
    listed = _git(folder, 'ls-files', '--others', '--exclude-standard', '--full-name', '-z', ':/')
    if root is None or listed is None:
        return None
    names = [name for name in listed.split('\0') if name]
    found = {}
    for name in [name for name in names if name.endswith(CODE)][:UNTRACKED_FILES]:
        path = pathlib.Path(root, name)
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= UNTRACKED_BYTES:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {'count': len(names), 'code': found}


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    said = ask(folder, *arguments)
    return None if said is None else said.decode(errors='replace').strip()


def ask(folder: pathlib.Path, *arguments: str, timeout_s: float = 20) -> bytes | None:
    """What git prints of the repository around `folder`; None where it fails, is missing or takes too long."""
    command = ['git', '--no-optional-locks', '-C', str(folder), *SAFE, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
