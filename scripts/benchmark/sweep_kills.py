"""A sweep that is killed at random and started again ends with the same table, byte for byte, and no trial runs twice.

One sweep is left alone. Others of the same experiments are killed by SIGKILL at random moments, the process of the
sweep or one that trains its trials, and started again until they end. Processes train several trials each, and halving
stops one of the three arms at half of the steps. Then the files of the answer (results.json, table.md and the others)
must be equal byte for byte; every trial must have ended once, with the same digest, those of the arm that is stopped at
the look; and no step may have been trained again but those after the last checkpoint before a kill.

Run: .venv/bin/python scripts/benchmark/sweep_kills.py [--repetitions 5] [--kills 3] [--seconds 4 15] [--seed 0]
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
    """Three arms of a few thousand weights, one of which learns nothing."""
    import sys

    sys.path.insert(0, {tests!r})
    import tiny
    from bigmodel_jax import config
    from bigmodel_jax.sweeps import arms, sweep as sweeps
    from bigmodel_jax.sweeps.statistics import halving


    def sweep():
        changes = {{'steps': 1_200, 'checkpoints.every_steps': 200, 'evaluations.0.every_steps': 100}}
        base = config.vary(tiny.experiment(), changes)
        slow = {{'optimizer.schedule.peak': 1e-9}}
        made = arms.named(base, {{'baseline': {{}}, 'deep': {{'model.layers': 3}}, '{stopped}': slow}})
        return sweeps.Sweep(arms=made, halving=halving.SuccessiveHalving(looks=(0.5,), error=0.2))
'''
STOPPED, LOOK = 'slow', 600
SETTLED_S, STARTED_S = 2, 60  # What a process that trained may take to be gone, and one that was only starting.
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


def killed(
    file: pathlib.Path, workdir: pathlib.Path, *, kills: int, seconds: tuple[float, float], chance: random.Random
) -> list[str]:
    """Runs a sweep to its end with kills on the way; returns what was killed."""
    told: list[str] = []
    while True:
        process = start(file, workdir)
        if len(told) < kills:
            time.sleep(chance.uniform(*seconds))
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
        wait_for_orphans(below, workdir)


def wait_for_orphans(processes: list[int], workdir: pathlib.Path) -> None:
    """Waits until the processes of a sweep that is gone are gone too, and checks that they write nothing meanwhile.

    The kernel kills one that trains with the sweep. One that is only starting looks for its parent as soon as Python
    has loaded it, which took 1.8 s on two cores with 11 other processes, and ends without having done anything.
    """

    def there() -> list[int]:
        return [pid for pid in processes if pathlib.Path(f'/proc/{pid}').exists()]

    def written() -> dict[pathlib.Path, tuple[int, int]]:
        found = {path: path.stat() for path in workdir.rglob('*') if path.is_file()}
        return {path: (about.st_size, about.st_mtime_ns) for path, about in found.items()}

    began = time.monotonic()
    while there() and time.monotonic() < began + SETTLED_S:
        time.sleep(0.1)
    before = written()
    while there() and time.monotonic() < began + STARTED_S:
        time.sleep(0.1)
    if there():
        raise SystemExit(f'orphans after {STARTED_S} s: {there()}')
    if written() != before:
        raise SystemExit(f'an orphan wrote into {workdir}')


def check(workdir: pathlib.Path) -> int:
    """Checks that every trial ended once and trained no step twice without need; returns how many were repeated."""
    opened, repeated = sweep_directory.open_sweep(workdir), 0
    for entry in opened.description.trials:
        run = opened.run(entry)
        if run is None:
            raise SystemExit(f'{entry.name} was not run')
        ends = [each for each in event_log.read_all(run.path / event_log.FILE) if each['kind'] == 'end']
        if len(ends) != (entry.arm != STOPPED) or (entry.arm == STOPPED and run.step != LOOK):
            raise SystemExit(f'{entry.name} ended {len(ends)} times, at step {run.step}')
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
    parser.add_argument('--seconds', type=float, nargs=2, default=(4, 15), help='shortest and longest time to a kill')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / 'two.py'
        file.write_text(textwrap.dedent(EXPERIMENTS).format(tests=str(TESTS), stopped=STOPPED))
        whole = pathlib.Path(folder) / 'whole'
        killed(file, whole, kills=0, seconds=(0, 0), chance=chance)
        check(whole)
        for number in range(options.repetitions):
            workdir = pathlib.Path(folder) / f'killed{number}'
            told = killed(file, workdir, kills=options.kills, seconds=tuple(options.seconds), chance=chance)
            repeated = check(workdir)
            found, wanted = answers(workdir), answers(whole)
            differ = sorted(name for name in wanted if found.get(name) != wanted[name])
            same = found == wanted
            print(f'{number}: killed {", ".join(told)}; {repeated} steps repeated; the same table: {same}', flush=True)
            if not same:
                raise SystemExit(f'these files differ: {differ}; is the working tree unchanged since the start?')


if __name__ == '__main__':
    main()
