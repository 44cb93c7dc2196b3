"""Whether the programs of a target are here, signed in, and answered by what they speak to."""

import functools
import shutil
from collections.abc import Iterator, Sequence

from bigmodel_jax import config
from bigmodel_jax.launch import programs
from bigmodel_jax.launch.doctor import results
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import cloud_tpu, skypilot, target
from bigmodel_jax.sweeps.engines import xpk

TOOLS, CREDENTIALS = 'tools', 'credentials'
ANSWER_S = 20.0  # Of one program. A launch waits longer.
SLURM = 'It comes with Slurm: run this on a login node of the cluster.'
INSTALL = {
    'gcloud': cloud_tpu.SIGN_IN,
    'kubectl': '`gcloud components install kubectl gke-gcloud-auth-plugin` installs it.',
    'xpk': f'{xpk.INSTALL}.',
    'sky': skypilot.INSTALL,
    'sbatch': SLURM,
    'sinfo': SLURM,
    'squeue': SLURM,
    'scancel': SLURM,
}
# What programs say when there is no network, or nobody at the other end.
OFFLINE = (
    'unable to find the server',
    'could not resolve',
    'name or service not known',
    'name resolution',
    'no such host',
    'network is unreachable',
    'connection refused',
    'connection aborted',
    'max retries exceeded',
    'i/o timeout',
    'timed out',
    'unable to contact',
    'was refused',
)


class Asked:
    """Runs programs with a short limit, and keeps the last answer."""

    def __init__(self, run: programs.Run | None = None):
        self._run = run or functools.partial(programs.run, timeout_s=ANSWER_S)
        self.last = programs.Answer(0)

    def __call__(self, command: Sequence[str]) -> programs.Answer:
        self.last = self._run(command)
        return self.last


def is_unheard(answer: programs.Answer) -> bool:
    """Whether a program did not speak with anybody, so that nothing is known."""
    said = f'{answer.out}\n{answer.err}'.lower()
    return answer.status is None or (answer.status != 0 and any(words in said for words in OFFLINE))


def check(on: target.Target, job: Job, asked: Asked) -> Iterator[results.CheckResult]:
    """The results of the programs, and of what they say."""
    missing = [name for name in on.tools if shutil.which(name) is None]
    for name in missing:
        yield results.fault(TOOLS, f'{name} is not on PATH.', INSTALL.get(name, ''))
    if not missing:
        yield results.ok(TOOLS, ', '.join(on.tools) or 'none is needed')
    if on.foreground:
        return
    try:
        warnings = on.ready(job, asked)
    except config.InputError as error:
        if asked.last.status == 127:
            yield results.not_checked(CREDENTIALS, f'{missing[0] if missing else "a program"} is missing')
        elif is_unheard(asked.last):
            yield results.not_checked(CREDENTIALS, str(error))
        else:
            yield results.fault(CREDENTIALS, str(error))
        return
    yield from (results.warning(CREDENTIALS, text) for text in warnings)
    if not warnings:
        yield results.ok(CREDENTIALS, 'the target answers')
