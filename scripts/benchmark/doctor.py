"""How long the doctor takes to find each of the planted mistakes, and whether it finds it.

Each file of tests/launch/planted/ holds one mistake; three more are of the machines and the programs: a slice on which
the model does not fit or the batch does not divide, a program that is not on the PATH, and a field that the schema of
JobSet lacks. The whole command is timed, with the start of Python, one mistake after another. The exit status is 1 if
one is not found, or not within 60 seconds.

Example: python scripts/benchmark/doctor.py
         python scripts/benchmark/doctor.py --only barrier writes
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PLANTED = ROOT / 'tests/launch/planted'
LIMIT_S = 60.0
HOSTS = 'SimulatedHosts(hosts=2)'
TPU = "CloudTpu(type='v5litepod-8', zone='us-west4-a', project='p')"
GKE = "Gke(cluster='c', project='p', zone='us-west4-a', type='v5litepod-8', image='i')"
# xpk that writes a manifest with a field that no version of JobSet has.
XPK = """\
#!{python}
import sys, yaml
out = next(word.partition('=')[2] for word in sys.argv if word.startswith('--output-manifest-file='))
made = yaml.safe_load(open({rendered!r}))
made['spec']['priorityy'] = 'low'
yaml.safe_dump(made, open(out, 'w'))
"""
KUBECTL = """\
#!{python}
import sys
rendered = [word.partition('=')[2] for word in sys.argv if word.startswith('--filename=')]
if 'patch' not in sys.argv:
    sys.exit('error: context "c" does not exist')
print(open(rendered[0]).read())
"""


class Mistake(NamedTuple):
    """A mistake, where it is made, and the check that finds it."""

    name: str
    check: str
    on: str = HOSTS
    workdir: str = ''
    settings: tuple[str, ...] = ()
    programs: tuple[str, ...] = ('gcloud', 'kubectl', 'xpk')  # On the PATH.
    file: str = ''


MISTAKES = (
    Mistake('branch', 'programs'),
    Mistake('traced_chance', 'programs'),
    Mistake('barrier', 'rehearsal'),
    Mistake('one_fails', 'rehearsal'),
    Mistake('writes', 'writes'),
    Mistake('seed_of_host', 'configuration'),
    Mistake('seed_of_clock', 'configuration'),
    Mistake('data_order', 'batches'),
    Mistake('chance', 'determinism'),
    Mistake('starts', 'experiment'),
    Mistake('odd_batch', 'batch', TPU, 'gs://bucket/x'),
    Mistake('too_large', 'memory', TPU, 'gs://bucket/x'),
    Mistake('missing_program', 'tools', GKE, 'gs://bucket/x', programs=('gcloud', 'kubectl'), file='base'),
    Mistake('unknown_field', 'manifest', GKE, 'gs://bucket/x', file='base'),
)


def found(mistake: Mistake, folder: pathlib.Path) -> tuple[float, float, dict[str, str] | None]:
    """The seconds of the command by the clock, those of all its processes on a core, and the fault that it found."""
    binaries = folder / f'bin-{mistake.name}'
    binaries.mkdir()
    (binaries / 'git').symlink_to(_which('git'))
    (binaries / 'bash').symlink_to(_which('bash'))
    texts = {'xpk': XPK, 'kubectl': KUBECTL}
    for name in mistake.programs:
        text = texts.get(name, '#!/bin/sh\necho US-WEST4\n')
        rendered = str(ROOT / 'tests/sweeps/xpk_manifest.yaml')
        (binaries / name).write_text(text.replace('{python}', sys.executable).replace('{rendered!r}', repr(rendered)))
        (binaries / name).chmod(0o755)
    command = [
        sys.executable, '-m', 'bigmodel_jax', 'doctor', str(PLANTED / f'{mistake.file or mistake.name}.py'),
        f'--on={mistake.on}', f'--workdir={mistake.workdir or folder / "run"}', '--json', '--fast',
        *(f'--set={each}' for each in mistake.settings),
        *([] if mistake.on == HOSTS else ['--hosts=0']),  # They are found before the file runs.
    ]  # fmt: skip
    begun, used = time.monotonic(), _cpu_s()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {'PATH': str(binaries)}, check=False
    )
    seconds, used = time.monotonic() - begun, _cpu_s() - used
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    faults = [each for each in results if each['level'] == 'fault' and each['check'] == mistake.check]
    return seconds, used, faults[0] if faults and done.returncode == 1 else None


def _cpu_s() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _which(name: str) -> pathlib.Path:
    return next(path for each in os.get_exec_path() if (path := pathlib.Path(each, name)).exists())


def main() -> int:
    """Prints a line for each mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='*', default=[each.name for each in MISTAKES])
    options = parser.parse_args()
    is_right = True
    with tempfile.TemporaryDirectory() as folder:
        for mistake in (each for each in MISTAKES if each.name in options.only):
            seconds, used, fault = found(mistake, pathlib.Path(folder))
            is_right &= fault is not None and seconds <= LIMIT_S
            said = 'NOT FOUND' if fault is None else f'{fault["message"]} -> {fault["advice"]}'
            took = f'{seconds:5.1f} s, {used:5.1f} s of a core (load {os.getloadavg()[0]:.1f})'
            print(f'{mistake.name:16} {mistake.check:14} {took}  {said}', flush=True)
    return 0 if is_right else 1


if __name__ == '__main__':
    sys.exit(main())
