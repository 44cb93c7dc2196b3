"""Every second of a session belongs to one phase, and what holds it up is named."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bigmodel_jax.hosts import processes, simulation
from bigmodel_jax.train.monitoring import watching

QUICK = watching.Limits(stuck_s=1.0, beat_s=0.2)


class Hand:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds

    def spend(self, clock, **phases):
        for phase, seconds in phases.items():
            with clock.phase(phase):
                self.seconds += seconds


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture
def clock(hand):
    return watching.Clock(hand)


def steps(clock, hand, first, last, **phases):
    """Steps that each take so long; what is found."""
    found = []
    for number in range(first, last + 1):
        hand.spend(clock, **phases)
        found.append(clock.step(number))
    return [each for each in found if each]


def test_phases_add_up_to_all_the_time(clock, hand):
    hand.seconds += 3  # Before the first step.
    steps(clock, hand, 1, 1, data=2, train=20)
    steps(clock, hand, 2, 5, data=1, train=4)
    hand.seconds += 2
    with clock.phase('evaluation'):
        hand.seconds += 6
        hand.spend(clock, checkpoint=1)  # Within another phase.
        hand.seconds += 1
    lap = clock.lap()
    assert lap.times == {'train': 16, 'data': 6, 'checkpoint': 1, 'compile': 20, 'evaluation': 7, 'other': 5}
    assert sum(lap.times.values()) == hand.seconds - 100
    assert watching.record(lap.times).keys() == {f'{phase}_s' for phase in watching.PHASES}
    # Four steps of 5 s, and 2 s on the host; without compilation, evaluation and checkpoint.
    assert lap.seconds_per_step == 22 / 4
    assert lap.finding is None


def test_a_lap_begins_where_the_last_one_ended(clock, hand):
    steps(clock, hand, 1, 3, train=1)
    clock.lap()
    steps(clock, hand, 4, 5, train=3)
    lap = clock.lap()
    assert (lap.seconds_per_step, sum(lap.times.values())) == (3, 6)
    assert clock.lap().seconds_per_step == 0


@pytest.mark.parametrize(
    ('phase', 'words'),
    [('data', 'waiting for data'), ('train', 'waiting for the devices'), ('checkpoint', 'busy with a checkpoint')],
)
def test_a_slow_step_is_said_with_its_cause(clock, hand, phase, words):
    assert steps(clock, hand, 1, 50, data=0.1, train=0.9) == []
    hand.spend(clock, **{'data': 0.1, 'train': 0.9, phase: 40})
    text = clock.step(51)
    assert text.startswith('Step 51 took 4')
    assert text.endswith(f'times the median of 1 s: 40.0 s of it {words}.')
    assert steps(clock, hand, 52, 60, data=0.1, train=0.9) == []


def test_a_short_run_is_not_told_of_its_first_save(clock, hand):
    assert steps(clock, hand, 1, 10, train=0.012) == []
    assert steps(clock, hand, 11, 11, checkpoint=1.0, train=0.012) == []


def test_what_was_planned_is_not_slow(clock, hand):
    assert steps(clock, hand, 1, 1, train=1_000) == []  # It compiles.
    assert steps(clock, hand, 2, 20, train=0.01) == []
    hand.spend(clock, evaluation=100)
    assert steps(clock, hand, 21, 21, train=0.5) == []  # 50 times the median, but who would mind?


def test_starving_is_said_once_for_each_lap(clock, hand):
    steps(clock, hand, 1, 10, data=3, train=1)
    assert '9 steps waited for data 75%' in clock.lap().finding
    assert clock.lap().finding is None
    steps(clock, hand, 11, 20, data=1, train=3)
    assert clock.lap().finding is None


def test_a_run_that_always_starves_says_so_ever_more_rarely(clock, hand):
    steps(clock, hand, 1, 1, train=1)
    said = []
    for lap in range(1, 17):
        steps(clock, hand, 2 * lap, 2 * lap + 1, data=3, train=1)
        said += [lap] * (clock.lap().finding is not None)
    assert said == [1, 2, 4, 8, 16]


def test_a_process_alone_says_in_which_phase_it_hangs():
    said, heard = [], threading.Event()

    def say(step, text):
        said.append((step, text))
        heard.set()

    clock = watching.Clock(limits=QUICK)
    with watching.Watcher(clock, say):
        for number in range(1, 11):
            with clock.phase('train'):
                time.sleep(0.01)
            clock.step(number)
        with clock.phase('data'):
            assert heard.wait(20)
            time.sleep(1)  # It is said once.
    assert [step for step, _ in said] == [10]
    assert 'it is waiting for data after step 10' in said[0][1]
    assert not [thread for thread in threading.enumerate() if thread.name == 'watcher']


def beats(*phases, step=17):
    return {host: watching.Heartbeat(9, step, phase) for host, phase in enumerate(phases)}


@pytest.mark.parametrize(
    ('heard', 'silent', 'expected'),
    [
        (beats('train', 'train', 'data'), {}, 'host 2 is waiting for data after step 17'),
        (beats('train', 'train'), {}, 'all hosts are waiting for the devices after step 17'),
        (
            beats('train', 'checkpoint', 'data'),
            {},
            'host 1 is busy with a checkpoint after step 17, host 2 is waiting for data after step 17',
        ),
        (beats('evaluation', 'evaluation'), {}, None),
        (
            beats('train', 'data'),
            {1: 40.0},
            'host 1 has not been heard of for 40 s, since it was waiting for data after step 17',
        ),
    ],
)
def test_whom_the_others_wait_for(heard, silent, expected):
    assert watching.verdict(heard, silent) == expected


def test_a_host_that_was_stopped_is_named():
    port = simulation.free_port()
    hosts = [start(host, port) for host in range(2)]
    try:
        wait_for(hosts[0], 'step 10')
        os.kill(hosts[1].pid, signal.SIGSTOP)
        line = wait_for(hosts[0], 'No step has ended')
        assert 'host 1 has not been heard of for' in line
        assert 'host 0' not in line
    finally:
        for process in hosts:
            process.kill()
            process.communicate()


def start(host, port):
    command = [sys.executable, __file__, str(host), str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process, words):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return line
    pytest.fail(f'{words!r} was not said: {"".join(lines[-20:])}')


def main():
    """One of two hosts that take steps together until they are killed."""
    import jax

    host, port = sys.argv[1:]
    jax.distributed.initialize(f'127.0.0.1:{port}', num_processes=2, process_id=int(host))
    clock = watching.Clock(limits=QUICK)
    with watching.Watcher(clock, lambda _, text: print(text, flush=True)):
        for number in range(1, 100_000):
            with clock.phase('train'):
                time.sleep(0.01)
                processes.exchange(number)
            clock.step(number)
            print(f'step {number}', flush=True)


if __name__ == '__main__':
    main()
