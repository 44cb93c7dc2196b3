"""The artifacts of evaluations in a run's directory: records of metrics.jsonl, and files in artifacts/.

A file is named by this package from the step, the name of the evaluation and a checksum of its content, so that no
name leaves the folder and no file is overwritten by another; SHA256SUMS lists it.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.storage import durable_files

FOLDER = 'artifacts'
FILE = re.compile(r'artifacts/\d{1,16}_[A-Za-z0-9_-]{0,40}_\d{1,9}_[0-9a-f]{12}\.(png|wav)')


class ArtifactGroup(NamedTuple):
    """The artifacts that one evaluation gave at one step, as JSON."""

    step: int
    name: str
    entries: list[dict[str, Any]]


def encoded(step: int, name: str, found: Sequence[artifacts.Artifact]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The artifacts as JSON, and the content of their files by the paths within the run's directory."""
    entries, files = [], {}
    for number, artifact in enumerate(found):
        entry = artifact.to_json()
        content = getattr(artifact, 'content', None)
        if content is not None:
            checksum = hashlib.sha256(content).hexdigest()
            plain = re.sub(r'[^A-Za-z0-9_-]', '_', name)[:40]
            path = f'{FOLDER}/{step}_{plain}_{number}_{checksum[:12]}{artifact.suffix}'
            files[path] = content
            entry |= {'file': path, 'sha256': checksum}
        entries.append(entry)
    return entries, files


def groups(records: Iterable[Mapping[str, Any]]) -> list[ArtifactGroup]:
    """The artifacts that are recorded, oldest first; also the texts and attention maps of older versions."""
    found = []
    for record in records:
        if record['kind'] == 'artifacts':
            found.append(ArtifactGroup(record['step'], record['name'], record['artifacts']))
        elif record['kind'] == 'samples':
            texts = [artifacts.Text(**{key: each[key] for key in _TEXT if key in each}) for each in record['samples']]
            found.append(ArtifactGroup(record['step'], record['name'], [each.to_json() for each in texts]))
        elif record['kind'] == 'maps':
            entries = [artifact.to_json() for each in record['maps'] for artifact in _of_map(each)]
            found.append(ArtifactGroup(record['step'], record['name'], entries))
    return found


_TEXT = ('prompt', 'text', 'reference')


def _of_map(record: Mapping[str, Any]) -> list[artifacts.Artifact]:
    labels = [[f'{each["piece"] or "(end)"} {each["id"]}' for each in record[side]] for side in ('source', 'target')]
    figure = artifacts.attention(np.array(record['weights']), labels[0], labels[1], title='Attention to the source')
    return [artifacts.Text(prompt=record['prompt'], text=record['text']), figure]


def load(workdir: epath.Path, entry: Mapping[str, Any]) -> artifacts.Artifact:
    """The artifact of a record, with the content of its file.

    Raises:
      DamagedFile: the file is missing, is not as it was written, or is not one that this package names.
    """
    if 'file' not in entry:
        return artifacts.from_json(entry)
    name = entry['file']
    if not FILE.fullmatch(name):
        raise durable_files.DamagedFile(f'{name!r} is not the name of an artifact of a run.')
    path = workdir / name
    for each in (path.parent, path):
        durable_files.check_no_link(each)
    if not durable_files.exists(path):
        raise durable_files.DamagedFile(f'{path} is missing.')
    content = durable_files.read(path)
    if hashlib.sha256(content).hexdigest() != entry['sha256']:
        raise durable_files.DamagedFile(f'{path} is damaged: its checksum is not the recorded one.')
    return artifacts.from_json(entry, content)
