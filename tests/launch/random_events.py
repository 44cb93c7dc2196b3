"""One launch in a cloud where anything may go wrong, and the laws that hold whatever does."""

import pathlib
import random

from launch import fake_cloud

from bigmodel_jax.launch import programs, states
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target

TARGETS = (
    "CloudTpu(type='v5litepod-16', zone='us-west4-a', project='p', spot=True)",
    "CloudTpu(type='v5litepod-16', zone='us-west4-a', project='p', slices=2)",
    "Gke(cluster='c', project='p', zone='us-west4-a', type='v5litepod-16', image='i')",
    "SkyPilot(type='v5litepod-16')",
    "SlurmNodes(partition='main')",
)
TURN_S = 30.0
TURNS = 3_000


class Sequence:
    """A launch on one of TARGETS, with the events that follow from a seed.

    Attributes:
      record: how it ended.
      cloud: where.
    """

    def __init__(self, seed: int, folder: pathlib.Path, *, turns: int = TURNS):
        chance = random.Random(seed)
        self.on = target.parse(TARGETS[seed % len(TARGETS)])
        self.job = Job(experiment='experiments/quickstart.py', workdir='gs://bucket/run', digest='0' * 64)
        hosts = getattr(self.on, 'hosts', 1)
        self.cloud = fake_cloud.FakeCloud(
            self.job.name, chance, troubles=chance.randrange(20), hosts=hosts, work=chance.randrange(1, 8)
        )
        self.cloud.spends = chance.random() < 0.15
        self.folder, self._turns = folder, turns
        self._stop_at = chance.choice((None, None, chance.randrange(5), chance.randrange(50)))
        self.record = states.Record()

    def run(self, run: programs.Run) -> None:
        """Turns the launch to its end; a process that is killed is followed by another, which reads the directory.

        Raises:
          AssertionError: it does not end.
        """
        about = states.Launch(self.job, self.on, states.LaunchBudget(attempts=5, hours=100.0), self.folder)
        about.save(self.record)
        for number in range(self._turns):
            self.cloud.now_s += TURN_S
            about, self.record = states.read(self.folder)
            if number == self._stop_at:
                self.record = states.stop(about, self.record, self.cloud.now_s)
            try:
                self.record = states.turn(about, self.record, run, self.cloud.now_s)
            except fake_cloud.Killed:
                continue
            if self.record.state.is_end:
                return
        raise AssertionError(f'the launch does not end: {self.record}')

    def problems(self) -> list[str]:
        """What is not as it should be after run()."""
        found = []
        if self.cloud.left:
            found.append(f'{self.cloud.left} are left running')
        if self.cloud.most > 1:
            found.append(f'{self.cloud.most} attempts had machines at the same time')
        twice = [name for name, count in self.cloud.created.items() if count > 1]
        if twice:
            found.append(f'{twice} were created twice')
        if self.record.state is states.LaunchState.SPENT and not self.cloud.spends:
            found.append('it is called spent, and has no budget')
        if self.record.state is states.LaunchState.DONE and self.cloud.work > 0:
            found.append('it is called done, and is not')
        return found
