"""Whether the versions of Python and of the libraries on the hosts are those of this machine."""

import importlib.metadata
import json
import pathlib
import platform
import shlex
from collections.abc import Iterator
from typing import Any

from bigmodel_jax.launch import code, programs
from bigmodel_jax.launch.doctor import results
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target
from bigmodel_jax.run_directory import environment

VERSIONS = 'versions'
CONSTRAINTS = 'constraints.txt'
ON_HOSTS = '3.11'  # The Python that the start of a host installs.
ASK = (
    'import importlib.metadata as m, json, platform; '
    'print(json.dumps({"python": platform.python_version(), **{n: m.version(n) for n in %r}}))'
)
TPU = 'libtpu'


def here() -> dict[str, str]:
    """The versions of this process."""
    found = {name: importlib.metadata.version(name) for name in environment.VERSIONS}
    return {'python': platform.python_version(), **found}


def pinned(file: pathlib.Path, python: str) -> dict[str, str]:
    """Name -> version that a file of constraints pins for a Python on Linux."""
    from packaging import markers, requirements

    setting: dict[str, Any] = {
        **markers.default_environment(),
        'python_version': python,
        'python_full_version': f'{python}.0',
        'sys_platform': 'linux',
        'platform_system': 'Linux',
        'platform_machine': 'x86_64',
    }
    found = {}
    for line in file.read_text(encoding='utf-8').splitlines():
        text = line.partition('#')[0].strip()
        if not text:
            continue
        each = requirements.Requirement(text)
        exact = [one.version for one in each.specifier if one.operator == '==']
        if exact and (each.marker is None or each.marker.evaluate(setting)):
            found[each.name.lower()] = exact[0]
    return found


def check(
    on: target.Target, job: Job, packed: code.PackedCode | None, run: programs.Run
) -> Iterator[results.CheckResult]:
    """The results of the versions on a target."""
    if on.foreground:
        yield results.ok(VERSIONS, 'the run uses this Python')
    elif on.installs is None and on.shares_files:
        yield _of_nodes(on, run)
    elif on.installs is None:
        yield results.not_checked(
            VERSIONS,
            'they are those of the container image, which is not here',
            'docker run IMAGE python -c "import jax; print(jax.__version__)" says them; here: ' + _text(here()),
        )
    elif packed is None:
        yield results.not_checked(VERSIONS, 'the code could not be packed')
    else:
        yield from _installed(packed.root / job.framework / CONSTRAINTS)


def _text(versions: dict[str, str]) -> str:
    return ', '.join(f'{name} {versions[name]}' for name in ('python', 'jax', 'flax', 'numpy') if name in versions)


def _differences(mine: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """A text for each version that differs; of Python without the last number."""
    found = []
    for name, version in mine.items():
        other = theirs.get(name)
        if name == 'python' and other is not None:
            version, other = (text.rpartition('.')[0] if text.count('.') > 1 else text for text in (version, other))
        if other is not None and other != version:
            found.append(f'{name} {version} here, {other} there')
    return found


def _installed(file: pathlib.Path) -> Iterator[results.CheckResult]:
    """Hosts that install the package with the versions of a file."""
    if not file.is_file():
        yield results.fault(
            VERSIONS,
            f'There is no {file}, from which the hosts take the versions to install.',
            'Keep the file beside setup.cfg of this package.',
        )
        return
    theirs = {'python': ON_HOSTS, **pinned(file, ON_HOSTS)}
    loose = [name for name in environment.VERSIONS if name not in theirs]
    if loose:
        yield results.warning(
            VERSIONS,
            f'{CONSTRAINTS} does not pin {", ".join(loose)}: the hosts install what is newest on that day.',
            f'Pin them: {", ".join(f"{name}=={here()[name]}" for name in loose)}.',
        )
    problem = _libtpu(theirs)
    if problem:
        yield results.fault(VERSIONS, problem, f'Pin {TPU} so that pip can install jax[tpu] with it.')
    apart = _differences(here(), theirs)
    if apart:
        yield results.warning(
            VERSIONS,
            f'This machine is not as the hosts will be: {"; ".join(apart)}.',
            f'pip install -c {CONSTRAINTS} -e . makes it so; what is tried here then holds there.',
        )
    if not (loose or problem or apart):
        yield results.ok(VERSIONS, f'{_text(theirs)}, as here')


def _libtpu(theirs: dict[str, str]) -> str | None:
    """Why jax[tpu] cannot be installed with the pinned library of the TPU; only known for the version that is here."""
    from packaging import requirements

    pin, jax_version = theirs.get(TPU), theirs.get('jax')
    if pin is None or jax_version != importlib.metadata.version('jax'):
        return None
    for text in importlib.metadata.requires('jax') or ():
        each = requirements.Requirement(text)
        wanted = each.name == TPU and each.marker is not None and each.marker.evaluate({'extra': 'tpu'})
        if wanted and not each.specifier.contains(pin, prereleases=True):
            return f'{CONSTRAINTS} pins {TPU} {pin}, but jax {jax_version} needs {TPU} {each.specifier}.'
    return None


def _of_nodes(on: target.Target, run: programs.Run) -> results.CheckResult:
    """Nodes whose Python is found at the same path as here."""
    folder = getattr(on, 'python', '')
    python = f'{folder.rstrip("/")}/python' if folder else 'python'
    answer = run([python, '-c', ASK % list(environment.VERSIONS)])
    if answer.status == 127:
        return results.fault(
            VERSIONS,
            f'There is no {shlex.quote(python)} here, with which the nodes are to run.',
            "Activate the environment before the launch, or name its folder: SlurmNodes(python='/path/to/venv/bin').",
        )
    if answer.status != 0:
        return results.fault(
            VERSIONS,
            f'{python} lacks what the package needs: {answer.problem}.',
            'Activate the environment in which this package is installed, or name its folder with python=.',
        )
    apart = _differences(here(), json.loads(answer.out.splitlines()[-1]))
    if apart:
        return results.warning(
            VERSIONS,
            f'The Python of the nodes has other versions: {"; ".join(apart)}.',
            'Use one environment for both, so that what is tried here holds there.',
        )
    return results.ok(VERSIONS, f'{_text(here())}, as here')
