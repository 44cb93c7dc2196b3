"""What is launched: one command of this package, with the code that it runs and the place of its results."""

import dataclasses
import hashlib
import re
import shlex

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files

NAME_LENGTH = 32  # With the number of the attempt within what Google Cloud and Kubernetes allow.
VARIABLE = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A command of the command line that other machines run.

    Attributes:
      experiment: FILE.py[:FUNCTION[/ARM]], with the path of the file in its repository.
      settings, arguments: as of --set and --arg.
      workdir: of the run, or of the sweep.
      verb: 'train' or 'sweep'.
      digest: SHA-256 of the archive of the code, in hexadecimal.
      framework: the folder of this package in the archive: '.' if it is in the repository of the experiment.
      options: of the verb, such as '--budget=3chip-hours'.
      secrets: names of environment variables, or of secrets, whose values the run needs.
    """

    experiment: str
    workdir: str
    digest: str
    settings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    verb: str = 'train'
    framework: str = '.'
    options: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.secrets:
            if not VARIABLE.fullmatch(name):
                raise config.InputError(
                    f'--secret {name!r} is not the name of a variable. Give the name alone; its value is taken from '
                    'where the target keeps it, and is never written on a command line.'
                )
        if not self.workdir.isprintable():
            raise config.InputError(f'--workdir {self.workdir!r} has characters that cannot be printed.')
        if self.verb not in ('train', 'sweep'):
            raise config.InputError(f'verb={self.verb!r}: train and sweep can be launched.')

    @property
    def name(self) -> str:
        """Of what is created for this job: lower-case letters, digits and hyphens; another for each work directory."""
        stem = re.sub(r'[^a-z0-9]+', '-', self.workdir.rstrip('/').rpartition('/')[2].lower()).strip('-')
        stem = stem if stem[:1].isalpha() else f'run-{stem}'.rstrip('-')
        digest = hashlib.sha256(self.workdir.rstrip('/').encode()).hexdigest()[:8]
        return f'{stem[: NAME_LENGTH - 9].rstrip("-")}-{digest}'

    @property
    def key(self) -> str:
        """Of this command with this code, in 12 hexadecimal digits."""
        return hashlib.sha256(f'{self.digest} {self.command}'.encode()).hexdigest()[:12]

    @property
    def store(self) -> str:
        """Where, beside the work directory, hosts find the code and leave their logs and statuses."""
        return f'{self.workdir.rstrip("/")}.launch/{self.key}'

    @property
    def words(self) -> list[str]:
        """The arguments after `python -m bigmodel_jax`."""
        return [
            self.verb,
            self.experiment,
            *(f'--set={each}' for each in self.settings),
            *(f'--arg={each}' for each in self.arguments),
            f'--workdir={self.workdir}',
            *self.options,
        ]

    @property
    def command(self) -> str:
        """The words for a shell."""
        return shlex.join(['python', '-m', 'bigmodel_jax', *self.words])

    def check_remote(self) -> None:
        """Raises InputError unless the work directory can be reached from the machines of a cloud."""
        if not self.workdir.startswith('gs://') or not self.workdir.removeprefix('gs://').strip('/'):
            raise config.InputError(
                f'--workdir {self.workdir}: the hosts of a slice do not see this directory. Use an object store, as '
                '--workdir gs://BUCKET/NAME.'
            )

    def check_local(self) -> None:
        """Raises InputError if the work directory is in an object store where all machines must see a file system."""
        if durable_files.is_remote(self.workdir):
            raise config.InputError(
                f'--workdir {self.workdir}: use a directory that all nodes see at the same path, such as one on NFS.'
            )
