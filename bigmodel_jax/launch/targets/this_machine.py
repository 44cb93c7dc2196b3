"""This machine, as one host or as several simulated ones."""

import dataclasses

from bigmodel_jax import config
from bigmodel_jax.launch import programs
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThisMachine(target.Target):
    """The accelerators of this machine, or its CPU."""

    foreground = True

    def check(self, job: Job) -> None:
        """As Target.check(): there is nothing to check."""

    def cost(self) -> target.Rental:
        """As Target.cost()."""
        return target.Rental('this machine', '')

    def machines(self) -> target.Machines:
        """As Target.machines(): its accelerators are left alone, as a run may be using them."""
        return target.Machines(1)

    def ready(self, job: Job, run: programs.Run) -> list[str]:
        """As Target.ready()."""
        return []

    def create(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.create()."""
        return [['python', '-m', 'bigmodel_jax', *place.job.words]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulatedHosts(target.Target):
    """Several processes on this machine that compute together, each with simulated CPU devices.

    Attributes:
      hosts: how many processes.
      devices: of each.
    """

    foreground = True
    hosts: config.Positive
    devices: config.Positive = 1

    def check(self, job: Job) -> None:
        """As Target.check()."""
        if job.verb != 'train':
            raise config.InputError('SimulatedHosts runs one experiment; --on "ThisMachine()" runs a sweep.')

    def cost(self) -> target.Rental:
        """As Target.cost()."""
        return target.Rental(f'{self.hosts} processes on this machine with {self.devices} simulated devices each', '')

    def ready(self, job: Job, run: programs.Run) -> list[str]:
        """As Target.ready()."""
        return []

    def machines(self) -> target.Machines:
        """As Target.machines()."""
        return target.Machines(self.hosts, self.hosts * self.devices)

    def create(self, place: target.AttemptPlace) -> list[list[str]]:
        """As Target.create()."""
        words = place.job.words
        return [['python', '-m', 'bigmodel_jax.hosts', str(self.hosts), str(self.devices), '--', *words]]
