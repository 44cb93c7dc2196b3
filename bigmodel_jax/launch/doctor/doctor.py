"""All checks of a launch, before anything is rented."""

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

from bigmodel_jax import compatibility, config, experiment_file
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.launch import code, launching, programs
from bigmodel_jax.launch.doctor import fitting, manifests, reachable, results, tools, versions
from bigmodel_jax.launch.doctor.rehearsal import instruments, judging, records, rehearsal
from bigmodel_jax.launch.job import Job
from bigmodel_jax.launch.targets import target
from bigmodel_jax.parallel import sharding

EXPERIMENT, CODE, TARGET = 'experiment', 'code', 'target'
SMOKE = 'smoke'
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """A launch that is to be examined; the fields are the arguments of `launch`.

    Attributes:
      experiment: FILE.py[:FUNCTION[/ARM]].
      settings, arguments: as of --set and --arg.
      fast: the memory by formula, although the TPU compiler is installed.
      hosts: how many processes rehearse; None: as many as the target has hosts, up to what this machine can take; 0:
        nothing is rehearsed.
    """

    experiment: str
    on: target.Target
    workdir: str
    settings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    fast: bool = False
    hosts: int | None = None


def examine(
    request: LaunchRequest, *, run: programs.Run | None = None, say: Say = lambda _: None
) -> Iterator[results.CheckResult]:
    """The results of all checks, as they are found. Nothing is created that outlives a check, and nothing is rented.

    Args:
      run: starts the programs of other parties; None: as programs.run(), with a short limit.
      say: is told what takes long.
    """
    asked = tools.Asked(run)
    experiment, found = _load(request)
    yield from found
    prepared, found = _prepare(request)
    yield from found
    machines, found = _machines(request, prepared)
    yield from found
    if experiment is not None and machines is not None:
        yield from fitting.check(experiment, machines, fast=request.fast, say=say)
    packed = None if prepared is None else prepared[1]
    if experiment is not None:
        yield from reachable.check_data(experiment, request.on, packed, asked)
        yield from reachable.check_directory(experiment, request.workdir, request.on, asked)
    if prepared is not None and machines is not None:
        job, packed = prepared
        yield from tools.check(request.on, job, asked)
        yield from versions.check(request.on, job, packed, asked)
        yield from manifests.check(request.on, job, asked)
    if experiment is not None and machines is not None:
        yield from _rehearse(request, machines, say)


def _load(request: LaunchRequest) -> tuple[Experiment | None, Sequence[results.CheckResult]]:
    try:
        with instruments.refusing_starts():
            found = experiment_file.load(request.experiment, request.settings, request.arguments)
        compatibility.check(found)
    except config.InputError as error:
        return None, [results.fault(EXPERIMENT, str(error))]
    return found, [results.ok(EXPERIMENT, f'{found.name}; its parts fit one another')]


def _prepare(
    request: LaunchRequest,
) -> tuple[tuple[Job, code.PackedCode] | None, Sequence[results.CheckResult]]:
    try:
        job, packed = launching.prepare(
            request.experiment,
            request.workdir,
            settings=request.settings,
            arguments=request.arguments,
            secrets=request.secrets,
        )
    except config.InputError as error:
        return None, [results.fault(CODE, str(error))]
    size = len(packed.archive) / 2**20
    return (job, packed), [results.ok(CODE, f'{packed.files} files of {packed.root}, {size:.1f} MiB')]


def _machines(
    request: LaunchRequest, prepared: tuple[Job, code.PackedCode] | None
) -> tuple[target.Machines | None, Sequence[results.CheckResult]]:
    try:
        if prepared is not None:
            request.on.check(prepared[0])
        machines = request.on.machines()
    except config.InputError as error:
        return None, [results.fault(TARGET, str(error))]
    return machines, [results.ok(TARGET, _described(request.on, machines))]


def _described(on: target.Target, machines: target.Machines) -> str:
    what = on.cost().what
    return what if machines.hosts == 1 or 'hosts' in what else f'{what}, {machines.hosts} hosts'


def _rehearse(request: LaunchRequest, machines: target.Machines, say: Say) -> Iterator[results.CheckResult]:
    """The results of running the file as several hosts."""
    if request.hosts == 0:
        yield results.not_checked(judging.REHEARSAL, '--hosts 0 leaves it out')
        return
    path, _, _ = experiment_file.parse(request.experiment)
    if not callable(getattr(experiment_file.load_module(path), SMOKE, None)):
        yield results.not_checked(
            judging.REHEARSAL,
            f'{path} has no {SMOKE}()',
            f'Define {SMOKE}(), the experiment at a size for a laptop, as experiments/quickstart.py does.',
        )
        return
    smoke = f'{path}:{SMOKE}'
    try:
        mesh = experiment_file.load(smoke).mesh
    except config.InputError as error:
        yield results.fault(judging.REHEARSAL, str(error))
        return
    devices = math.prod(getattr(mesh, axis) for axis in sharding.AXES if axis != 'data')
    hosts = rehearsal.hosts_for(machines.hosts) if request.hosts is None else request.hosts
    order = records.RehearsalOrder(
        asked=request.experiment,
        smoke=smoke,
        settings=request.settings,
        arguments=request.arguments,
        hosts=hosts,
        devices=devices,
    )
    say(f'running {smoke} as {hosts} of {machines.hosts} hosts on this machine, for two steps ...')
    with tempfile.TemporaryDirectory(prefix='bigmodel_jax-doctor-') as folder:
        outcome = rehearsal.rehearse(order, pathlib.Path(folder))
        yield from judging.results_of(outcome, machines.hosts)
