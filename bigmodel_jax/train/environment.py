"""Where a session ran: versions, devices, flags, and the code with its uncommitted changes."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections import Counter
from typing import Any

import jax

from bigmodel_jax import __version__
from bigmodel_jax.train import processes

VERSIONS = (
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'tensorflow-datasets',
    'grain',
    'numpy',
)
DIFF_LIMIT = 1_000_000  # Characters; a larger diff is cut, and says so.


def describe() -> dict[str, Any]:
    """This process's environment, JSON-ready."""
    devices = Counter(device.device_kind for device in jax.devices())
    return {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': sys.argv,
        'python': platform.python_version(),
        'platform': platform.platform(),
        'versions': _versions(),
        'backend': jax.default_backend(),
        'devices': [{'kind': kind, 'count': count} for kind, count in devices.items()],
        'processes': processes.count(),
        'xla_flags': os.environ.get('XLA_FLAGS', ''),
        'libtpu_flags': os.environ.get('LIBTPU_INIT_ARGS', ''),
        'git': git(pathlib.Path.cwd()),
    }


def that_must_agree() -> dict[str, Any]:
    """What must be equal on all hosts, or they would compile different programs and wait for each other for ever."""
    flags = {name: os.environ.get(name, '') for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')}
    return {'python': platform.python_version(), 'versions': _versions(), **flags}


def _versions() -> dict[str, str]:
    installed = {name: _version(name) for name in VERSIONS}
    known = {name: version for name, version in installed.items() if version is not None}
    return {'bigmodel_jax': __version__, **known}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git(folder: pathlib.Path) -> dict[str, Any] | None:
    """Commit, branch and uncommitted changes of the repository around `folder`; None where there is none."""
    commit = _git(folder, 'rev-parse', 'HEAD')
    if commit is None:
        return None
    status, diff = _git(folder, 'status', '--porcelain') or '', _git(folder, 'diff', 'HEAD') or ''
    if len(diff) > DIFF_LIMIT:
        diff = f'{diff[:DIFF_LIMIT]}\n... cut; {len(diff)} characters in all.'
    branch = _git(folder, 'rev-parse', '--abbrev-ref', 'HEAD')
    return {'commit': commit, 'branch': branch, 'dirty': bool(status), 'diff': diff}


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(['git', '-C', str(folder), *arguments], capture_output=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors='replace').strip() if done.returncode == 0 else None
