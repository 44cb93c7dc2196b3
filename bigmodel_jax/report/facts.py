"""What a run ran on, and what identifies its data. No JAX."""

from collections.abc import Iterator
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.runs import directory

MOST_LINES = 60  # Of the fingerprint of the data; keeps the page small, whatever the run.


def facts(run: directory.Run) -> list[tuple[str, str]]:
    """What the last session ran on."""
    if not run.environment:
        return []
    entry = run.environment[-1]
    devices = ', '.join(f'{device["count"]} x {device["kind"]}' for device in entry.get('devices', []))
    mesh = ' x '.join(f'{axis}={size}' for axis, size in (entry.get('mesh') or {}).items())
    versions = ', '.join(f'{package} {version}' for package, version in (entry.get('versions') or {}).items())
    found = [
        ('Devices', f'{devices} ({entry.get("backend", "")})'),
        ('Processes', str(entry.get('processes', ''))),
        ('Mesh', mesh),
        ('Python', f'{entry.get("python", "")} on {entry.get("platform", "")}'),
        ('Packages', versions),
        ('XLA flags', str(entry.get('xla_flags') or 'none')),
    ]
    return [(name, value) for name, value in found if value]


def fingerprint(run: directory.Run) -> list[tuple[str, str]]:
    """What identifies the data, one dotted path a line."""
    data = (run.environment[-1].get('data') or {}) if run.environment else {}
    return [(path, str(value)) for path, value in flatten(data)][:MOST_LINES]


def flatten(data: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """The leaves of JSON data, each with its dotted path."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        yield path, data
        return
    for key, value in items:
        yield from flatten(value, config.join(path, key))
