"""Under which conditions two sessions worked: code, versions, flags, devices. They may round differently."""

import functools
import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bigmodel_jax.reproduce import sections
from bigmodel_jax.reproduce.sections import Finding, Section
from bigmodel_jax.run_directory import code

Entry = Mapping[str, Any]  # One session in environment.json.
COMMIT_DIGITS = 10
ABSENT = '(absent)'
Contents = Mapping[str, bytes | None]  # By SHA-256; see run_directory/code.py.
NOTHING_KNOWN: Contents = {}
SYSTEM = 'system'  # The operating system computes nothing.


def in_force(environment: Sequence[Entry], last: int) -> list[tuple[int, Entry]]:
    """The sessions whose steps hold, each with the step after which it began.

    Args:
      last: the last step that matters.
    """
    kept: list[tuple[int, Entry]] = []
    for entry in environment:
        while kept and kept[-1][0] >= entry['step']:  # The steps in `kept` rise.
            kept.pop()
        if not kept or entry['step'] < last:
            kept.append((entry['step'], entry))
    return kept


def compare(
    left: Sequence[tuple[int, Entry]], right: Sequence[tuple[int, Entry]], contents: Contents = NOTHING_KNOWN
) -> list[Section]:
    """The four sections, of what was in force at each step.

    Args:
      left, right: as in_force() gives them.
      contents: of the files that they name, to show the lines that differ.
    """
    if not left or not right:
        return [Section(title, (), 'not recorded', compared=False) for title in ('code', *(part[0] for part in PARTS))]
    steps = sorted({step for step, _ in (*left, *right)})
    pairs = [(step, _at(left, step), _at(right, step)) for step in steps]
    unknown = next((text for _, *both in pairs for text in map(_unknown_code, both) if text), None)
    findings = tuple(_over(pairs, functools.partial(_code, contents=contents)))
    code = Section('code', findings, unknown or _about_code(pairs[0][1]), compared=unknown is None or bool(findings))
    return [code, *(Section(title, tuple(_over(pairs, part)), about(pairs[0][1])) for title, part, about in PARTS)]


def _at(sessions: Sequence[tuple[int, Entry]], step: int) -> Entry:
    """The session that made the step after `step`."""
    return next((entry for start, entry in reversed(sessions) if start <= step), sessions[0][1])


def _over(pairs: Sequence[tuple[int, Entry, Entry]], part: Callable[..., Iterable[Finding]]) -> Iterable[Finding]:
    """The findings of each pair of sessions, without those that were there before."""
    known: set[tuple[str, str]] = set()
    for step, left, right in pairs:
        for finding in part(left, right):
            if (finding.what, finding.text) in known:
                continue
            known.add((finding.what, finding.text))
            late = '' if step == pairs[0][0] else f' from step {step + 1} on'
            yield finding._replace(text=finding.text + late, step=step + 1 if late else 0)


def changes(sessions: Sequence[tuple[int, Entry]], contents: Contents = NOTHING_KNOWN) -> list[str]:
    """Where a run went on under other conditions: 'at step 12 with jax: 0.10.2 -> 0.12.0'."""
    found = []
    for (_, before), (step, after) in itertools.pairwise(sessions):
        parts = [str(finding) for finding in _code(before, after, contents)]
        parts += [str(finding) for _, part, _ in PARTS for finding in part(before, after)]
        if parts:
            found.append(f'went on after step {step} with another {"; ".join(parts)}')
    return found


# ---- code -------------------------------------------------------------------------------------------------------


def _code(left: Entry, right: Entry, contents: Contents = NOTHING_KNOWN) -> Iterable[Finding]:
    if 'code' in left and 'code' in right:
        yield from _files(left['code'], right['code'], contents)
    one, other = left.get('git') or {}, right.get('git') or {}
    if one.get('commit') != other.get('commit'):
        commits = [_commit(each) for each in (one, other)]
        yield Finding('commit', sections.change(*commits), sections.CODE)
    patches = [_patches(each.get('diff') or '') for each in (one, other)]
    files = [name for name in dict.fromkeys([*patches[0], *patches[1]]) if patches[0].get(name) != patches[1].get(name)]
    if files:
        shown = [f'{name}{_only(name, patches)}' for name in files]
        yield Finding('uncommitted changes', sections.listed(shown, 6), sections.CODE)
    # What a run imported of them is compared above.
    here, there = ((each.get('untracked') or {}).get('code') for each in (one, other))
    if here is not None and there is not None:
        names = [name for name in sorted({**here, **there}) if here.get(name) != there.get(name)]
        if names:
            yield Finding('files unknown to git', sections.listed(names, 6), sections.NOTHING)
    elif not files and bool(one.get('dirty')) != bool(other.get('dirty')):
        states = ['some' if each.get('dirty') else 'none' for each in (one, other)]
        yield Finding('files unknown to git', sections.change(*states), sections.NOTHING)


def _files(left: Entry, right: Entry, contents: Contents) -> Iterable[Finding]:
    """The files of a person's own and of the package that differ."""
    for change in code.changes(left, right, contents):
        yield Finding(change.name, change.text, sections.CODE, lines=change.lines)
    packages = [each['package'] for each in (left, right)]
    if packages[0]['sha256'] != packages[1]['sha256']:
        names = code.changed_package(*(contents.get(each['sha256']) for each in packages))
        versions = sections.change(*(f'{each["version"]} ({each["sha256"][:COMMIT_DIGITS]})' for each in packages))
        yield Finding('bigmodel_jax', f'{versions}{": " if names else ""}{sections.listed(names, 6)}', sections.CODE)


def _unknown_code(entry: Entry) -> str | None:
    """Why it is not known which code a session ran; None if it is."""
    if 'code' not in entry:
        return f'unknown: the version that made the run did not record its code; {_about_git(entry)}'
    unknown = entry['code']['unknown']
    return f'unknown: parts are defined in {sections.listed(unknown)}, which has no file' if unknown else None


def _commit(git: Mapping[str, Any]) -> str:
    if not git:
        return '(no repository)'
    return git['commit'][:COMMIT_DIGITS] + (f' ({git["branch"]})' if git.get('branch') else '')


def _patches(diff: str) -> dict[str, str]:
    """File -> what git diff says of it."""
    parts = re.split(r'^diff --git a/.* b/(.*)$', diff, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2]))
    return found or ({'(a diff)': diff} if diff else {})


def _only(name: str, patches: Sequence[Mapping[str, str]]) -> str:
    return '' if all(name in each for each in patches) else f' (only {"B" if name in patches[1] else "A"})'


def _about_code(entry: Entry) -> str:
    known = entry['code']
    package = f'bigmodel_jax {known["package"]["version"]} ({known["package"]["sha256"][:COMMIT_DIGITS]})'
    return f'{sections.listed([*known["files"], package], 6)}; {_about_git(entry)}'


def _about_git(entry: Entry) -> str:
    git = entry.get('git')
    if not git:
        return 'no repository'
    if git.get('diff') is None:
        return f'{_commit(git)}, uncommitted changes unknown'
    state = 'the same' if git['diff'] else 'untracked files' if git.get('dirty') else 'no'
    return f'{_commit(git)}, {state}{"" if state.endswith("files") else " uncommitted changes"}'


# ---- versions, flags, devices -----------------------------------------------------------------------------------


def _versions(left: Entry, right: Entry) -> Iterable[Finding]:
    one, other = ({'python': each.get('python'), **each.get('versions', {})} for each in (left, right))
    yield from _differing(one, other)


def _about_versions(entry: Entry) -> str:
    versions = entry.get('versions', {})
    more = f' and {len(versions) - 1} more packages' if len(versions) > 1 else ''
    return f'python {entry.get("python")}, jax {versions.get("jax")}{more}'


def _flags(left: Entry, right: Entry) -> Iterable[Finding]:
    yield from _differing(_flag_table(left), _flag_table(right))


def _flag_table(entry: Entry) -> dict[str, str]:
    """Flag -> value, of all that environment.json calls flags: xla_flags and the like."""
    words = [word for name, text in entry.items() if name.endswith('_flags') for word in _words(str(text or ''))]
    pairs = [word.partition('=') for word in words]
    return {name: value or 'set' for name, _, value in pairs}


def _words(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError:  # A quote is open; XLA splits at spaces too.
        return flags.split()


def _about_flags(entry: Entry) -> str:
    table = _flag_table(entry)
    return sections.counted(len(table), 'flag') if table else 'none on either side'


def _devices(left: Entry, right: Entry) -> Iterable[Finding]:
    for finding in _differing(_device_table(left), _device_table(right)):
        yield finding._replace(speaks_for=sections.NOTHING) if finding.what == SYSTEM else finding


def _device_table(entry: Entry) -> dict[str, str]:
    devices = ', '.join(f'{each["count"]} x {each["kind"]}' for each in entry.get('devices', []))
    table = {'devices': devices, 'processes': entry.get('processes'), 'mesh': _mesh(entry)}
    return {**{name: str(value) for name, value in table.items()}, SYSTEM: str(entry.get('platform', ABSENT))}


def _mesh(entry: Entry) -> str:
    mesh = entry.get('mesh', {})
    return ' x '.join(f'{axis}={size}' for axis, size in mesh.items() if size > 1) or 'one device'


def _about_devices(entry: Entry) -> str:
    table = _device_table(entry)
    processes = int(entry.get('processes', 1))
    return f'{table["devices"]}, {processes} process{"" if processes == 1 else "es"}, mesh {table["mesh"]}'


def _differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterable[Finding]:
    for name in dict.fromkeys([*left, *right]):
        values = [each.get(name, ABSENT) for each in (left, right)]
        if values[0] != values[1]:
            yield Finding(name, sections.change(*values), sections.ROUNDING)


PARTS: tuple[tuple[str, Callable[..., Iterable[Finding]], Callable[[Entry], str]], ...] = (
    ('versions', _versions, _about_versions),
    ('XLA flags', _flags, _about_flags),
    ('devices', _devices, _about_devices),
)
