"""What a session of training works with: everything is opened here before the first step, and closed after the last."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.checkpoints import restoring
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import compile_cache, preemption, processes
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import device_memory, metrics, prefetch, preparation, state, step
from bigmodel_jax.train.flops import utilization
from bigmodel_jax.train.monitoring import budget as budgets
from bigmodel_jax.train.monitoring import callbacks, histograms, hooks, profiling, progress, trace, watching
from bigmodel_jax.train.recovery import gaps, rollback
from bigmodel_jax.train.route import Route


class Services(NamedTuple):
    """What the loop uses."""

    clock: watching.Clock
    prefetch: prefetch.Prefetcher
    preemption: preemption.Interrupt
    checkpoints: Checkpointer
    writer: metrics.MetricsWriter
    tracer: trace.Tracer
    progress: progress.Progress
    run_files: restoring.RunFiles
    utilization: utilization.Utilization
    budget: budgets.BudgetGuard
    hooks: hooks.Hooks

    def log_event(self, kind: str, number: int, *texts: str | None) -> None:
        """Writes events of the run, if there are any, to its log and to the terminal."""
        for text in filter(None, texts):
            self.writer.event(kind, number, text=text)
            self.progress.say(text)

    def watched(self) -> contextlib.AbstractContextManager[Any]:
        """Within this context a thread logs when no step ends any more, and why."""
        return watching.Watcher(self.clock, functools.partial(self.log_event, 'slow'))

    @property
    def unwritten(self) -> tuple[str, ...]:
        """A sentence for each log that could not be written to its end; complete once the services are closed."""
        return (*self.writer.lost, *self.tracer.lost)


class Opened(NamedTuple):
    """A session that is ready for its first step."""

    run: preparation.PreparedRun
    services: Services
    state: state.TrainState
    position: dict[str, Any]  # What a checkpoint holds besides the state; 'step' is the step to start from.


@contextlib.contextmanager
def opened(
    experiment: Experiment,
    directory: epath.Path,
    *,
    stop_after: int | None,
    wandb: str | None,
    new_segment: bool,
    profile: profiling.Steps | None,
    callback: callbacks.Callback | None,
    programs: step.RunPrograms,
    peak_flops: float | None,
    budget: budgets.RunBudget | None,
) -> Iterator[Opened]:
    """Checks and opens everything for a session; the arguments are those of loop.train().

    Raises:
      InputError: something a person gave is wrong; nothing was written.
    """
    device_memory.keep_freed()
    callbacks.check(callback)
    how: dict[str, Any] = {'stop_after': stop_after, 'wandb': wandb, 'new_segment': new_segment, 'profile': profile}
    changes = preparation.check(experiment, directory, **how, budget=budget)
    before = processes.on_first(lambda: budgets.account(directory)) or budgets.Account()
    run = preparation.prepare_start(experiment, directory, new_segment=new_segment, programs=programs)
    spending = budgets.BudgetGuard(budget, before, devices=run.place.mesh.size, clock=watching.Clock())
    processes.on_first(spending.check)
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(preparation.open_workdir(experiment, directory))
        interrupt = stack.enter_context(preemption.listen(run.place))
        stack.enter_context(sharding.use(run.place))
        stack.enter_context(compile_cache.kept())
        checkpoints = stack.enter_context(preparation.open_checkpoints(run, directory, guard))
        current, position = processes.run_on_all(lambda: preparation.begin(run, checkpoints))
        how = {'guard': guard, 'wandb': wandb, 'profile': profile, 'callback': callback}
        how |= {'peak_flops': peak_flops, 'spending': spending}
        services = _open(stack, run, checkpoints, interrupt, position=position, **how)
        _greet(run, services, position, changes)
        yield Opened(run, services, current, position)


def _open(
    stack: contextlib.ExitStack,
    run: preparation.PreparedRun,
    checkpoints: Checkpointer,
    interrupt: preemption.Interrupt,
    *,
    position: dict[str, Any],
    guard: Callable[[], None],
    wandb: str | None,
    profile: profiling.Steps | None,
    callback: callbacks.Callback | None,
    peak_flops: float | None,
    spending: budgets.BudgetGuard,
) -> Services:
    """The services of a session, to be closed by `stack`."""
    experiment, directory = run.experiment, checkpoints.workdir
    start, details = position['step'], config.to_json(experiment)
    writer = metrics.open_writer(directory, start=start, wandb=wandb, details=details, guard=guard)
    bar = progress.Progress(experiment.name, start=start, steps=experiment.steps, unit=experiment.data.units.name)
    batches = prefetch.Prefetcher(run.data, run.place, start, Route.of(position), workers=experiment.workers)
    stack.enter_context(writer)
    stack.enter_context(bar)
    stack.enter_context(batches)
    tracer = stack.enter_context(
        trace.Tracer(
            directory,
            run.spec,
            place=run.place,
            seed=experiment.seed,
            start=start,
            fields=run.data.fields,
            guard=guard,
        )
    )
    profiler = stack.enter_context(profiling.Profiler(profile, directory))
    checkpoints.logs = (writer.sync, tracer.sync)
    checkpoints.attachments = preparation.record_session(run, directory, writer, position)
    clock, files = spending.clock, restoring.RunFiles(directory, checkpoints.attachments)
    used = utilization.Utilization(experiment, run.place, peak_flops)
    services = Services(
        clock, batches, interrupt, checkpoints, writer, tracer, bar, files, used, spending, hooks.Hooks(())
    )
    spending.watch(interrupt, functools.partial(services.log_event, 'warning'))
    every_step = (profiler, *_watchers(run, services), callbacks.Caller(callback, interrupt.request_stop), spending)
    return services._replace(hooks=hooks.Hooks(every_step))


def _watchers(run: preparation.PreparedRun, services: Services) -> tuple[hooks.Hook, ...]:
    """What every session records at its steps."""
    return (
        histograms.Histograms(run, services.clock, services.writer),
        StepEnds(services),
        Fingerprints(services.tracer, run.experiment),
    )


def _greet(
    run: preparation.PreparedRun, services: Services, position: dict[str, Any], changes: Sequence[config.Difference]
) -> None:
    """Tells the terminal and the log what a session begins with."""
    start, checkpoints = position['step'], services.checkpoints
    begun_anew, directory = checkpoints.begun_anew, checkpoints.workdir
    services.progress.say(preparation.greeting(run, directory, position, changes=changes, begun_anew=begun_anew))
    services.log_event('budget', start, services.budget.sentence(start, run.experiment.steps))
    services.log_event('warning', start, rollback.warning(run.experiment, start))
    services.log_event('damage', start, *checkpoints.damage)
    services.log_event(gaps.KIND, start, gaps.missing(directory, position))


class StepEnds(hooks.Hook):
    """Moves the progress bar, and logs steps that were slow."""

    def __init__(self, services: Services):
        self._services = services

    def after_step(self, number: int, current: state.TrainState, trace: step.Trace) -> None:
        self._services.log_event('slow', number, self._services.clock.step(number))
        self._services.progress.advance(number)


class Fingerprints(hooks.Hook):
    """Takes the fingerprints for trace.jsonl: at the start, every `watch.fingerprints_every` steps, and at the end."""

    def __init__(self, tracer: trace.Tracer, experiment: Experiment):
        self._tracer, self._last = tracer, experiment.steps
        self._every = experiment.watch.fingerprints_every

    def at_start(self, number: int, current: state.TrainState) -> None:
        self._tracer.take(number, current, None)

    def after_step(self, number: int, current: state.TrainState, trace: step.Trace) -> None:
        if number % self._every == 0 or number == self._last:
            self._tracer.take(number, current, trace.norms)
