"""Preparing a session: everything is built and checked before the first compile, and recorded with the run."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from bigmodel_jax import compatibility, config, differences
from bigmodel_jax import experiment as experiments
from bigmodel_jax.checkpoints import partial_state, restoring
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.data import batches
from bigmodel_jax.data.tabular import fitting
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.tokenizer import Tokenizer
from bigmodel_jax.evaluate import evaluation
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import processes
from bigmodel_jax.models import model
from bigmodel_jax.parallel import sharding, torus
from bigmodel_jax.run_directory import code, environment, identity, locking, segments, workdir
from bigmodel_jax.run_directory.trackers import tracking
from bigmodel_jax.storage import appending, durable_files
from bigmodel_jax.train import initial_state, metrics, state, step
from bigmodel_jax.train.evaluating import early_stopping
from bigmodel_jax.train.monitoring import budget as budgets
from bigmodel_jax.train.monitoring import profiling
from bigmodel_jax.train.recovery import continuing, rollback
from bigmodel_jax.train.reference import log_probabilities


@dataclasses.dataclass(frozen=True)
class PreparedRun:
    """An experiment with everything built and checked, before the first compile."""

    experiment: Experiment
    place: sharding.ShardingContext
    data: batches.Batches
    spec: state.StateSpec
    evaluators: tuple[evaluation.Evaluator, ...]
    directions: compatibility.Directions = compatibility.Directions()
    changes: tuple[
        str, ...
    ] = ()  # With which a new segment of a run begins, a line each; see run_directory/segments.py.
    programs: step.RunPrograms = step.OWN_PROGRAMS

    @property
    def identity(self) -> dict[str, Any]:
        """What its data and its tokenizer are, as a session records it."""
        return identity.of(self.data, self.experiment, self.evaluators)


def build(experiment: Experiment, workdir: epath.Path | None = None) -> PreparedRun:
    """Opens the data and checks everything that can be checked without computing; allocates no weight.

    Args:
      workdir: the directory of the run, whose tokenizer and fitted values are used if it holds any.

    Raises:
      InputError: anything the experiment asks for is wrong, missing or does not fit together.
    """
    experiments.check(experiment)
    place = experiment.mesh.build()
    with sharding.use(place):
        spec = state.specify(experiment, place)
        # Before the data is opened, which may take long.
        compatibility.check_parts(experiment)
        directions = compatibility.directions(experiment)
        own = identity.with_own(experiment, workdir)
        data = identity.opened(lambda: own.data.open(experiment.seed), experiment, workdir)
        _check_counts(data)
        model.check_opened(experiment.model, data.fields)
        setting = _setting(experiment, spec, place, tokenizer=data.examples.tokenizer, open_training=lambda: data)
        evaluators = identity.opened(
            lambda: tuple(each.build(setting) for each in own.evaluations), experiment, workdir
        )
        if jax.tree.leaves(spec.abstract.model_state):
            # A module that changes its state in evaluation is found by tracing it.
            for each in experiment.evaluations:
                compatibility.metrics(each, experiment)
    return PreparedRun(experiment, place, data, spec, evaluators, directions)


def _check_counts(data: batches.Batches) -> None:
    """Raises InputError if a batch may hold nothing that counts."""
    if isinstance(data.examples, batches.ArrayExamples):
        problem = data.examples.blanks(data.rows)
        if problem is not None:
            raise config.InputError(problem)


def _setting(
    experiment: Experiment,
    spec: state.StateSpec,
    place: sharding.ShardingContext,
    *,
    tokenizer: Tokenizer | None,
    open_training: Callable[[], batches.Batches],
) -> evaluation.EvaluationContext:
    return evaluation.EvaluationContext(
        model=experiment.model,
        module=spec.module,
        objective=experiment.objective,
        data=experiment.data,
        open_training=open_training,
        tokenizer=tokenizer,
        place=place,
        seed=experiment.seed,
    )


def prepare(experiment: Experiment, workdir: epath.Path | None = None) -> PreparedRun:
    """build() by every process: the first prepares the data, then the others find it, and an error of one is of all."""
    jax.devices()  # They start together: each waits here for all.
    run = processes.first_then_others(lambda: build(experiment, workdir))
    opened = [run.data, *(each.data for each in run.evaluators)]
    log_probabilities.attach(experiment, run.spec, run.place, opened=opened, directory=workdir)
    return run


def evaluators_of(
    experiment: Experiment, place: sharding.ShardingContext, workdir: epath.Path
) -> tuple[evaluation.Evaluator, ...]:
    """The evaluations of a run, built by every process; with its tokenizer, and without its training data if they can.

    Raises:
      InputError: their data is missing, or not what the run recorded of evaluations of these names.
    """

    def open_training() -> batches.Batches:
        found = identity.opened(lambda: own.data.open(experiment.seed), experiment, workdir)
        identity.check({'data': dict(found.examples.fingerprint)}, workdir, experiment)
        return found

    def build_all() -> tuple[tuple[evaluation.Evaluator, ...], state.StateSpec]:
        experiments.check(experiment)
        opened = functools.cache(open_training)
        tokenizer = identity.tokenizer_of(workdir)
        if tokenizer is None and identity.recorded(workdir).get('tokenizer', True) is not None:
            tokenizer = opened().examples.tokenizer  # The run lost it, or did not record whether it has one.
        with sharding.use(place):
            spec = state.specify(experiment, place)
            setting = _setting(experiment, spec, place, tokenizer=tokenizer, open_training=opened)
            found = identity.opened(lambda: tuple(each.build(setting) for each in own.evaluations), experiment, workdir)
        known = {each.name: dict(one.fingerprint) for each, one in zip(experiment.evaluations, found)}
        identity.check({'evaluations': known}, workdir, experiment)
        return found, spec

    jax.devices()
    own = identity.with_own(experiment, workdir)
    found, spec = processes.first_then_others(build_all)
    log_probabilities.attach(experiment, spec, place, opened=[each.data for each in found], directory=workdir)
    return found


def check(
    experiment: Experiment,
    directory: epath.Path,
    *,
    stop_after: int | None,
    wandb: str | None,
    new_segment: bool,
    profile: profiling.Steps | None,
    budget: budgets.RunBudget | None,
) -> list[config.Difference]:
    """What can be checked before the devices start; returns where a run in the directory differs."""
    facts = {
        'experiment': config.to_json(experiment),
        'workdir': str(directory),
        'stop_after': stop_after,
        'profile': profile and list(profile),
        'budget': budget and str(budget.budget),
        **environment.that_must_agree(),
    }
    processes.check_same(facts, 'Give every host the same code, libraries, flags and command.')
    rollback.check(experiment)
    processes.on_first(lambda: locking.check_free(directory))
    processes.on_first(lambda: workdir.check_writable(directory))
    processes.on_first(lambda: restoring.from_checkpoints(directory))
    changes = processes.on_first(lambda: workdir.check(directory, experiment)) or []
    processes.on_first(lambda: continuing.check(directory, changes, consent=new_segment))
    if profile is not None:
        last = min(experiment.steps, stop_after or experiment.steps)
        done = processes.on_first(lambda: continuing.newest(directory)) or 0
        processes.on_first(functools.partial(profiling.check, profile, directory, done=done, last=last))
    if wandb is not None:
        processes.on_first(functools.partial(tracking.check, wandb))
    return changes


def prepare_start(
    experiment: Experiment, directory: epath.Path, *, new_segment: bool = False, programs: step.RunPrograms
) -> PreparedRun:
    """prepare() for a session in a work directory; nothing is written there before everything is checked.

    Args:
      new_segment, programs: see loop.train().
    """
    run = prepare(experiment, directory)
    run = dataclasses.replace(run, spec=programs.specified(experiment, run.spec), programs=programs)
    same = processes.run_on_all(lambda: identity.check(run.identity, directory, experiment, consent=new_segment))
    other = processes.run_on_all(
        lambda: continuing.check_prepared(directory, experiment, run.spec, consent=new_segment)
    )
    run = dataclasses.replace(run, changes=(*other, *same))
    tokenizer = run.data.examples.tokenizer
    processes.run_on_all(lambda: initial_state.check(experiment.initialization, run.spec, directory, tokenizer))
    return run


@contextlib.contextmanager
def open_workdir(experiment: Experiment, directory: epath.Path) -> Iterator[Callable[[], None]]:
    """Within this context the work directory is there, and is this run's alone.

    Yields:
      A guard, to be called before anything is written there; see locking.owned().
    """
    with locking.owned(directory, appending.say) as guard:
        processes.on_first(lambda: workdir.create(directory, experiment))
        processes.run_on_all(lambda: workdir.check_shared(directory))
        yield guard


def open_checkpoints(run: PreparedRun, directory: epath.Path, guard: Callable[[], None]) -> Checkpointer:
    """The checkpoints of a session's work directory; `guard` is that of open_workdir()."""
    return Checkpointer(
        directory,
        run.experiment.checkpoints,
        direction=run.directions.best,
        rolls_back=rollback.is_chosen(run.experiment),
        guard=guard,
    )


def begin(
    run: PreparedRun, checkpoints: Checkpointer, among: Collection[int] | None = None
) -> tuple[state.TrainState, dict[str, Any]]:
    """The newest good checkpoint, or a new state; and the position, which holds what else is needed to resume.

    That of a new state may say under 'start' where its weights come from.
    """
    known = segments.read(checkpoints.workdir)
    if run.changes or len(known) > 1:  # The checkpoint may be of an earlier segment, with another optimizer.
        checkpoints.anew = run.spec.init
    restored = checkpoints.restore_newest(run.spec.abstract, run.spec.shardings, among)
    checkpoints.anew = None
    if restored is not None:
        current, position = restored
        # Other data or another optimizer may improve what did not improve before.
        if run.changes or segments.of_an_earlier(known, position['step']):
            position.pop(early_stopping.REASON, None)
        return current, position
    first, origin = initial_state.begin(run.experiment.initialization, run.spec)
    return first, {'step': 0, 'pending': []} | ({} if origin is None else {'start': origin})


def record_session(
    run: PreparedRun, directory: epath.Path, writer: metrics.MetricsWriter, position: Mapping[str, Any]
) -> dict[str, bytes]:
    """Adds this session to the run's environment.json and to its log, and stores its tokenizer.

    Returns:
      Copies for the checkpoints, see Checkpointer.attachments; they matter on the first process.
    """
    start, attachments = position['step'], {}
    if processes.is_first():
        own = code.describe(run.experiment)
        for sentence in code.changed_since(directory, own) if start else ():
            writer.event('code', start, text=sentence)
            appending.say(sentence)
        writer.write_file(directory / code.FOLDER, lambda: code.store(directory, own))
        session = environment.describe() | {
            'step': start,
            'code': own.entry,
            'mesh': run.place.sizes,
            'parameters': run.spec.parameters,
            **run.identity,
            **run.programs.record,
        }
        session |= {'start': position['start']} if 'start' in position else {}
        workdir.add_session(directory, session, writer.write_file)
        identity.store_tokenizer(run.data.examples.tokenizer, directory, writer.write_file)
        identity.store_fitted(run.data.examples.fitted, directory, writer.write_file)
        continuing.record(directory, run.experiment, start, run.changes)
        attachments = _attachments(run, directory, session)
    writer.event('resume' if start else 'start', start)
    return attachments


def _attachments(run: PreparedRun, directory: epath.Path, session: Mapping[str, Any]) -> dict[str, bytes]:
    """What a checkpoint holds beside its arrays: enough to read it when all else of the run is lost."""
    tokenizer, fitted = run.data.examples.tokenizer, run.data.examples.fitted
    stored = {} if tokenizer is None else tokenizer.stored()
    return {
        **segments.encoded(segments.read(directory)),
        durable_files.SESSION: durable_files.encode_json(session),
        **{f'{tokenizers.FOLDER}/{name}': content for name, content in stored.items()},
        **({} if fitted is None else {f'{fitting.FOLDER}/{fitting.FILE}': fitted.content}),
    }


def greeting(
    run: PreparedRun,
    directory: epath.Path,
    position: Mapping[str, Any],
    *,
    changes: Sequence[config.Difference],
    begun_anew: Sequence[str],
) -> str:
    """What the terminal says at the start of a session.

    Args:
      changes: where the experiment differs from the one that is stored.
      begun_anew: the arrays of the state of the optimizer that were not in the checkpoint.
    """
    data, spec = run.experiment.data, run.spec
    trained = '' if spec.trained_parameters == spec.parameters else f', {spec.trained_parameters:,} of them trained'
    lines = [
        f'{run.experiment.name}: {spec.parameters:,} parameters{trained}, '
        f'{data.units_per_step:,} {data.units.name} per step, '
        f'mesh {torus.shape_text(run.place.sizes)}, in {directory}'
    ]
    if position['step'] >= run.experiment.steps:
        lines.append(f'finished already: the checkpoint of step {position["step"]} is the last; nothing is trained')
    elif (why := early_stopping.Monitor(run.experiment, run.directions.stopping, position).reason) is not None:
        lines.append(f'finished early already, at step {position["step"]}: {why}; nothing is trained')
    elif position['step']:
        lines.append(f'resuming from the checkpoint of step {position["step"]}')
    if 'start' in position:
        lines.append(initial_state.sentence(position['start']))
    if run.changes:
        kept = partial_state.sentence(begun_anew)
        lines.append(f'a new segment begins after step {position["step"]}; {kept}')
    lines += [f'changed: {change}' for change in run.changes]
    circumstances = [each for each in changes if each.path.partition('.')[0] in differences.CIRCUMSTANCES]
    return '\n'.join(lines + [f'changed since the last session: {change}' for change in circumstances])
