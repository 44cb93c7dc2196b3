"""The interface of the configs that say where a run is launched, and how --on names one."""

import importlib
import math
import pkgutil
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bigmodel_jax import config, settings
from bigmodel_jax.launch import programs, seen, targets
from bigmodel_jax.launch.job import Job
from bigmodel_jax.plan.hardware import slices as hardware

WORD = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.:/@-]*')  # Of a cloud's names; none of them is an option or of the shell.
ARCHIVE = 'code.tar'
ALONE, OF_A_SLICE = 8, 4  # Chips of the host of a small slice of v5e and v6e, and of each host of all others.


class Rental(NamedTuple):
    """What a target rents."""

    what: str  # '16 chips v5e on 4 hosts'
    chip: str  # Of plan/hardware/prices.json; '' where nothing is rented.
    chips: int = 0


class Machines(NamedTuple):
    """The hosts on which a run computes, with one process each.

    Attributes:
      devices: of all hosts together, as JAX counts them; None where only the hosts know.
      chips: what they are, as `plan` counts them; None where that is not known.
    """

    hosts: int
    devices: int | None = None
    chips: hardware.Slice | None = None


class Manifest(NamedTuple):
    """What a target gives to a cluster, and how to learn whether the cluster will take it; nothing is created.

    Attributes:
      file: its path, in YAML.
      render: the commands that write it on this machine.
      schema: the command that prints the cluster's own schema, in JSON.
      rehearse: the command that lets the cluster check it.
    """

    file: str
    render: list[list[str]]
    schema: list[str]
    rehearse: list[str]


class AttemptPlace(NamedTuple):
    """An attempt of a job, and the directory on this machine with its files."""

    job: Job
    attempt: int
    folder: str

    @property
    def name(self) -> str:
        """Of what is created for the attempt."""
        return f'{self.job.name}-{self.attempt}'


class Target:
    """Where a run is launched.

    Attributes:
      foreground: the command runs in the process that launches it, and nothing is left to watch.
      tools: the programs that a launch starts on this machine, by their names on PATH.
      shares_files: its hosts see the files of this machine at the same paths.
      installs: the extras of this package that its hosts install, with the versions of constraints.txt; None where
        they have their own.
    """

    foreground = False
    tools: tuple[str, ...] = ()
    shares_files = True
    installs: tuple[str, ...] | None = None

    def check(self, job: Job) -> None:
        """Raises InputError for what can be known to be wrong without asking anybody."""
        raise NotImplementedError

    def cost(self) -> Rental:
        """What it rents."""
        raise NotImplementedError

    def machines(self) -> Machines:
        """The hosts of a run.

        Raises:
          InputError: there are no such machines.
        """
        raise NotImplementedError

    def preparation(self, job: Job) -> list[list[str]]:
        """Commands that a person runs once, before the first launch; none by default."""
        return []

    def ready(self, job: Job, run: programs.Run) -> list[str]:
        """Asks whether tools and credentials are there, and changes nothing.

        Returns:
          Warnings.

        Raises:
          InputError: something is missing.
        """
        raise NotImplementedError

    def files(self, place: AttemptPlace) -> Mapping[str, str]:
        """Name -> content of the files that the commands need, besides the archive of the code."""
        return {}

    def manifest(self, place: AttemptPlace) -> Manifest | None:
        """The manifest that create() gives to a cluster; None if there is none."""
        return None

    def create(self, place: AttemptPlace) -> list[list[str]]:
        """The commands that start an attempt, in their order; the last one creates what costs money."""
        raise NotImplementedError

    def judge(self, answer: programs.Answer) -> seen.Created:
        """What came of the last command of create()."""
        if answer.status == 0:
            return seen.Created.ACCEPTED
        return seen.Created.UNKNOWN if answer.status is None else seen.Created.REFUSED

    def observe(self, place: AttemptPlace, run: programs.Run) -> seen.Seen:
        """What there is of an attempt now."""
        raise NotImplementedError

    def is_gone(self, place: AttemptPlace, run: programs.Run) -> bool | None:
        """Whether nothing that an attempt created is left; None without an answer."""
        raise NotImplementedError

    def delete(self, place: AttemptPlace) -> list[list[str]]:
        """The commands that end an attempt and remove all that create() made; they may be given again."""
        raise NotImplementedError

    def logs(self, place: AttemptPlace) -> list[str]:
        """The command that shows what the hosts printed."""
        raise NotImplementedError


def hosts_of(one: hardware.Slice) -> int:
    """How many hosts one slice of TPU has."""
    chips = math.prod(one.shape)
    return 1 if one.chip.torus == 2 and chips <= ALONE else max(chips // OF_A_SLICE, 1)


def parse(text: str) -> Target:
    """The target that --on names, written as in Python: CloudTpu(type='v5litepod-16', zone='us-west4-a', project='p').

    Raises:
      InputError: there is no such target, or a field of it is wrong.
    """
    known = _known()
    name = re.match(r'\s*(\w*)', text).group(1)  # type: ignore[union-attr]
    if name not in known:
        raise config.InputError(f'--on {text}: there is no target {name!r}.{config.nearest(name, known)}')
    made = settings.parse_value(text, '--on')
    if not isinstance(made, Target):
        raise config.InputError(f'--on {text}: write a target with its fields, such as {name}(...); see launch --help.')
    return config.check(made)


def _known() -> dict[str, type[Target]]:
    for module in pkgutil.iter_modules(targets.__path__, f'{targets.__name__}.'):
        importlib.import_module(module.name)
    return {cls.__name__: cls for cls in Target.__subclasses__()}


def check_words(config_name: str, **words: str) -> None:
    """Raises InputError unless each is '' or a name that is no option and that a shell reads as it is."""
    for field, word in words.items():
        if word and not WORD.fullmatch(word):
            raise config.InputError(f'{config_name}: {field}={word!r} is not a name.')


def need(run: programs.Run, command: Sequence[str], advice: str) -> programs.Answer:
    """What a program says that must be there and agree.

    Raises:
      InputError: it is missing or fails; ends in `advice`.
    """
    answer = run(command)
    if answer.status == 127:
        raise config.InputError(f'{command[0]} is not on PATH. {advice}')
    if answer.status != 0:
        raise config.InputError(f'`{" ".join(command[:6])}` failed: {answer.problem}. {advice}')
    return answer
