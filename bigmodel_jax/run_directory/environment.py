"""Where a session ran: versions, devices, flags, and the code with its uncommitted changes."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import sys
from collections import Counter
from typing import Any

import jax

from bigmodel_jax import __version__, settings
from bigmodel_jax.hosts import processes
from bigmodel_jax.run_directory import git

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


def describe() -> dict[str, Any]:
    """This process's environment, JSON-ready."""
    devices = Counter(device.device_kind for device in jax.devices())
    return {
        'started': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': settings.without_secrets(sys.argv),
        'python': platform.python_version(),
        'platform': platform.platform(),
        'versions': _versions(),
        'backend': jax.default_backend(),
        'devices': [{'kind': kind, 'count': count} for kind, count in devices.items()],
        'processes': processes.count(),
        'xla_flags': _flags('XLA_FLAGS'),
        'libtpu_flags': _flags('LIBTPU_INIT_ARGS'),
        'git': git.describe(pathlib.Path.cwd()),
    }


def that_must_agree() -> dict[str, Any]:
    """What must be equal on all hosts, or they would compile different programs and wait for each other for ever."""
    flags = {name: os.environ.get(name, '') for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')}
    return {'python': platform.python_version(), 'versions': _versions(), **flags}


def _flags(variable: str) -> str:
    return ' '.join(settings.without_secrets(os.environ.get(variable, '').split(' ')))


def _versions() -> dict[str, str]:
    installed = {name: _version(name) for name in VERSIONS}
    known = {name: version for name, version in installed.items() if version is not None}
    return {'bigmodel_jax': __version__, **known}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
