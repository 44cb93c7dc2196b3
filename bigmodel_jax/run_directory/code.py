"""The code of a session: the experiment file, a person's own modules that it imports, and this package.

An entry of environment.json names each file with its SHA-256; what the files hold lies in the run's directory as
code/<SHA-256>, once for each content. It is only ever shown: nothing that a run's directory holds is executed.
"""

import difflib
import functools
import hashlib
import pathlib
import re
import sys
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax import __version__, config
from bigmodel_jax.run_directory import git, run_files
from bigmodel_jax.storage import durable_files
from bigmodel_jax.user_code import own_modules

FOLDER = 'code'
STORED_BYTES, STORED_FILES = 2**20, 500  # A larger file, and more files than this, are hashed and not stored.
SHOWN_LINES = 24  # Of a difference.
DIGEST = re.compile(r'[0-9a-f]{64}')

Entry = Mapping[str, Any]  # See describe().


class Code(NamedTuple):
    """What a session runs."""

    entry: dict[str, Any]  # Of environment.json, see describe().
    contents: dict[str, bytes]  # By SHA-256.


def describe(experiment: Any, *, program: bool = True) -> Code:
    """The code by which `experiment` is made and run in this process.

    Its entry has 'package' (version, SHA-256 of its list of files, and git), 'files' (name -> SHA-256 of each file of a
    person's own), 'experiment_file' (its name among these), 'path' (where it was), and 'unknown': the modules that
    define parts of the experiment and have no file, such as a notebook.

    Args:
      program: the file of the running program is part of it.
    """
    file = getattr(experiment, config.FILE, None)
    roots = _roots(experiment, file, program=program)
    found = own_modules.closure(roots.values())
    files, contents, name_of = {}, {}, {}
    for module, path in sorted(found.items()):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        name_of[path] = name = _name(module, path)
        files[name] = digest
        if len(content) <= STORED_BYTES and len(contents) < STORED_FILES:
            contents[digest] = content
    described, listing = package()
    contents[described['sha256']] = listing
    named = None if file is None else name_of.get(pathlib.Path(file))
    unknown = sorted(_defining(experiment) & {name for name, each in roots.items() if not hasattr(each, '__file__')})
    entry = {'package': described, 'files': files, 'experiment_file': named, 'path': file, 'unknown': unknown}
    return Code(entry, contents)


def _roots(experiment: Any, file: str | None, *, program: bool) -> dict[str, types.ModuleType]:
    """The modules in which parts of the experiment are defined, the experiment file, and the program itself."""
    names = _defining(experiment) | ({'__main__'} if program else set())
    if file is not None:
        names.add(f'{config.EXPERIMENTS}.{pathlib.Path(file).stem}')
    return {name: sys.modules[name] for name in sorted(names) if name in sys.modules}


def _defining(node: Any) -> set[str]:
    """The names of the modules in which the classes and functions within a config are defined."""
    found = set()
    for _, value in config.walk(node):
        if config.is_config(value):
            found |= {type(value).__module__} | _defining(value)
        elif callable(value):
            found.add(getattr(value, '__module__', None) or type(value).__module__)
    return found


def _name(module: str, path: pathlib.Path) -> str:
    """A name for a file that does not depend on where it lies: 'mine.py', 'helpers.py', 'parts/layers.py'."""
    if module == '__main__' or module.startswith(f'{config.EXPERIMENTS}.'):
        return path.name
    folders = module.split('.') if path.name == '__init__.py' else module.split('.')[:-1]
    return '/'.join([*folders, path.name])


@functools.cache
def package() -> tuple[dict[str, Any], bytes]:
    """This package: 'package' of describe()'s entry, and the SHA-256 of its files in the form of sha256sum."""
    root = pathlib.Path(__file__).parents[1]
    paths = sorted(path for path in root.rglob('*') if path.is_file() and path.suffix != '.pyc')
    lines = [f'{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}' for path in paths]
    listing = '\n'.join([*lines, '']).encode()
    found = git.describe(pathlib.Path(__file__).parent)
    # Which files differ from the commit is known by the list of their checksums.
    kept = None if found is None else {name: found[name] for name in ('commit', 'branch', 'dirty')}
    return {'version': __version__, 'sha256': hashlib.sha256(listing).hexdigest(), 'git': kept}, listing


# ---- in a run's directory ---------------------------------------------------------------------------------------


def store(workdir: epath.Path, code: Code) -> None:
    """Writes the contents that the run does not hold yet."""
    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    durable_files.clean(folder)
    for digest, content in code.contents.items():
        if read(workdir, digest) is None:
            durable_files.write(folder / digest, content)


def read(workdir: epath.PathLike, digest: object) -> bytes | None:
    """What a file held; None if the run does not hold it, or not as it was."""
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        return None
    path = epath.Path(workdir) / FOLDER / digest
    if not path.is_file() or path.stat().length > STORED_BYTES:
        return None
    content = durable_files.read(path)
    return content if hashlib.sha256(content).hexdigest() == digest else None


def changed_since(workdir: epath.Path, code: Code) -> list[str]:
    """A sentence for what differs from the code of the last session of a run, which goes on all the same."""
    try:
        sessions = run_files.environment(workdir)
    except durable_files.DamagedFile:  # Adding this session to it will say so.
        sessions = []
    before = sessions[-1].get('code') if sessions else None
    if before is None:
        return ['Which code the session before ran is unknown: it was not recorded.'] if sessions else []
    contents = Contents(code.contents, [workdir])
    found = [f'{each.name} ({each.text})' for each in changes(before, code.entry, contents)]
    old, new = before['package'], code.entry['package']
    if old['sha256'] != new['sha256']:
        names = changed_package(contents[old['sha256']], contents[new['sha256']])
        found.append(f'bigmodel_jax {new["version"]} ({", ".join(names[:4]) or new["sha256"][:10]})')
    if not found:
        return []
    text = '; '.join(found[:6]) + (f' and {len(found) - 6} more' if len(found) > 6 else '')
    return [f'The code changed since the last session: {text}. The run continues, and records it.']


class Contents(Mapping[str, bytes | None]):
    """What files held, by SHA-256: of this process, and of the directories of runs.

    Args:
      known: of this process.
      workdirs: of runs.
    """

    def __init__(self, known: Mapping[str, bytes], workdirs: Sequence[epath.Path]):
        self._known, self._workdirs = known, workdirs

    def __getitem__(self, digest: str) -> bytes | None:
        found = (read(workdir, digest) for workdir in self._workdirs)
        return self._known[digest] if digest in self._known else next((each for each in found if each), None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def still_there(then: Entry, *, besides: Collection[str]) -> dict[str, bytes]:
    """By name, what the files of a session's code hold now, as far as they are where they were.

    Args:
      then: of a session, of which the path of the experiment file is known.
      besides: the names of files that are not wanted.
    """
    folder = pathlib.Path(then['path']).parent
    found = {}
    for name in then['files']:
        path = folder / name
        inside = name not in besides and path.suffix == '.py' and path.resolve().is_relative_to(folder.resolve())
        if inside and path.is_file() and path.stat().st_size <= STORED_BYTES:
            found[name] = path.read_bytes()
    return found


# ---- differences ------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A file that differs between two sessions."""

    name: str
    text: str  # '3 lines changed', 'new'.
    lines: tuple[str, ...] = ()  # Of the difference, the first ones.


def changes(left: Entry, right: Entry, contents: Mapping[str, bytes | None]) -> Iterator[Change]:
    """The files of a person's own that differ; the experiment files are compared, whatever they are called.

    Args:
      contents: by SHA-256, as far as they are known.
    """
    files = [dict(each['files']) for each in (left, right)]
    names = [each['experiment_file'] for each in (left, right)]
    if all(names) and names[0] != names[1]:
        before, after = (each.pop(name) for each, name in zip(files, names))
        yield from _change(f'{names[0]} -> {names[1]}', before, after, contents)
    for name in sorted({**files[0], **files[1]}):
        yield from _change(name, files[0].get(name), files[1].get(name), contents)


def _change(name: str, left: str | None, right: str | None, contents: Mapping[str, bytes | None]) -> Iterator[Change]:
    if left == right:
        return
    if left is None or right is None:
        yield Change(name, 'new' if left is None else 'no longer used')
        return
    texts = [contents.get(digest) for digest in (left, right)]
    if texts[0] is None or texts[1] is None:
        yield Change(name, f'{left[:12]} -> {right[:12]} (SHA-256; the content was not stored)')
        return
    before, after = (text.decode(errors='replace').splitlines() for text in texts if text is not None)
    found = list(difflib.unified_diff(before, after, lineterm='', n=1))[2:]
    count = sum(line[:1] in ('+', '-') for line in found)
    shown = [line[:200] for line in found[:SHOWN_LINES]]
    more = [f'... and {len(found) - SHOWN_LINES} more lines'] if len(found) > SHOWN_LINES else []
    yield Change(name, f'{count} line{"" if count == 1 else "s"} changed', (*shown, *more))


def changed_package(left: bytes | None, right: bytes | None) -> list[str]:
    """The files of the package that differ between two lists; none if one is not known."""
    if left is None or right is None:
        return []
    tables = [
        {name: digest for digest, _, name in (line.partition('  ') for line in listing.decode().splitlines())}
        for listing in (left, right)
    ]
    return [name for name in sorted({**tables[0], **tables[1]}) if tables[0].get(name) != tables[1].get(name)]
