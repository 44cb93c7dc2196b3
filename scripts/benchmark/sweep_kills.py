"""A sweep that is killed at random and started again ends with the same table, byte for byte, and no trial runs twice.

One sweep is left alone. Others of the same experiments are killed by SIGKILL at random moments, the process of the
sweep or one of its trials, and started again until they end. Then the files of the answer (results.json, results.md and
the others) must be equal byte for byte; every trial must have ended once, with the same digest; and no step may have
been trained again but those after the last checkpoint before a kill.

Run: .venv/bin/python scripts/benchmark/sweep_kills.py [--repetitions 5] [--kills 3] [--seed 0]
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

from bigmodel_jax.run_directory import event_log
from bigmodel_jax.sweeps import sweep_directory

TESTS = pathlib.Path(__file__).resolve().parents[2] / 'tests'
EXPERIMENTS = '''
    """Two arms of a few thousand weights."""
    import sys

    sys.path.insert(0, {tests!r})
    import tiny
    from bigmodel_jax import config
    from bigmodel_jax.sweeps import arms


    def sweep():
        base = config.vary(tiny.experiment(), {{'steps': 3_000, 'checkpoints.every_steps': 300}})
        return arms.named(base, {{'baseline': {{}}, 'deep': {{'model.layers': 3}}}})
'''
ANSWERS = ('.json', '.md', '.tex', '.csv')  # The page also shows paths.


def start(file: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen[bytes]:
    """A sweep in a process of its own."""
    command = [sys.executable, '-m', 'bigmodel_jax', 'sweep', str(file), '--workdir', str(workdir), '--seeds', '2']
    return subprocess.Popen([*command, '--jobs', '2', '--retry'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def answers(workdir: pathlib.Path) -> dict[str, bytes]:
    """The files that say what the sweep found."""
    return {path.name: path.read_bytes() for path in sorted(workdir.iterdir()) if path.suffix in ANSWERS}


def killed(file: pathlib.Path, workdir: pathlib.Path, kills: int, chance: random.Random) -> list[str]:
    """Runs a sweep to its end with kills on the way; returns what was killed."""
    told: list[str] = []
    while True:
        process = start(file, workdir)
        if len(told) < kills:
            time.sleep(chance.uniform(4, 15))
        below = children(process.pid)
        if len(told) >= kills or process.poll() is not None:
            status = process.wait()
            if status == 0:
                return told
            raise SystemExit(f'the sweep ended with status {status}: {workdir}')
        target = chance.choice([process.pid, *below])
        os.kill(target, signal.SIGKILL)
        told.append('sweep' if target == process.pid else 'trial')
        process.wait()  # Killed; or, after a trial was, it ends with the others and status 1.
        orphans = [pid for pid in below if pathlib.Path(f'/proc/{pid}').exists()]
        time.sleep(2)
        orphans = [pid for pid in orphans if pathlib.Path(f'/proc/{pid}').exists()]
        if orphans:
            raise SystemExit(f'orphans after 2 s: {orphans}')


def check(workdir: pathlib.Path) -> int:
    """Checks that every trial ended once and trained no step twice without need; returns how many were repeated."""
    opened, repeated = sweep_directory.open_sweep(workdir), 0
    for entry in opened.description.trials:
        run = opened.run(entry)
        if run is None:
            raise SystemExit(f'{entry.name} was not run')
        ends = [each for each in event_log.read_all(run.path / event_log.FILE) if each['kind'] == 'end']
        if len(ends) != 1:
            raise SystemExit(f'{entry.name} ended {len(ends)} times')
        void = sum(session.void_steps for session in run.sessions)
        repeated += void
    if len(list((workdir / sweep_directory.TRIALS).iterdir())) != len(opened.description.trials):
        raise SystemExit(f'{workdir}: there are trials that nobody asked for')
    return repeated


def main() -> None:
    """Compares sweeps that were killed with one that was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repetitions', type=int, default=5)
    parser.add_argument('--kills', type=int, default=3, help='in each repetition')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / 'two.py'
        file.write_text(textwrap.dedent(EXPERIMENTS).format(tests=str(TESTS)))
        whole = pathlib.Path(folder) / 'whole'
        killed(file, whole, 0, chance)
        check(whole)
        for number in range(options.repetitions):
            workdir = pathlib.Path(folder) / f'killed{number}'
            told = killed(file, workdir, options.kills, chance)
            repeated = check(workdir)
            found, wanted = answers(workdir), answers(whole)
            differ = sorted(name for name in wanted if found.get(name) != wanted[name])
            same = found == wanted
            print(f'{number}: killed {", ".join(told)}; {repeated} steps repeated; the same table: {same}', flush=True)
            if not same:
                raise SystemExit(f'these files differ: {differ}; is the working tree unchanged since the start?')


if __name__ == '__main__':
    main()
