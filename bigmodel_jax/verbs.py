"""The verbs of the command line as Python calls, for notebooks and scripts.

verbs.check({'base': experiment})
verbs.train(experiment, 'runs/quickstart')
run = verbs.open_run('runs/quickstart')
steps, losses = run.metrics('loss')
run.sample('The ', tokens=100)
run.restore().evaluate()
verbs.judge('runs/a', ['runs/b', 'runs/c'])
verbs.find_runs('runs').where('seed == 0').sorted('validation/loss')
verbs.diff('runs/a', 'runs/b').verdict
verbs.watch('runs')
verbs.answer('sweeps/norms').arms
verbs.verify('runs/a', steps=10).identical
verbs.replay('runs/a', 1_234).losses
verbs.profile('runs/a', (10, 13)).breakdown
verbs.serve('runs/a')
verbs.sweep(sweep.Sweep(arms={'baseline': a, 'wide': b}), 'runs/widths')
verbs.convert('gpt2', 'runs/gpt2')
verbs.export(run, 'exported')
verbs.open_export('exported').trained.sample(['The '])
verbs.compress('runs/a', 'runs/a_int8', methods.Quantize(quantization=quantization.PostTraining()))
verbs.certify('gpt2', 'io.npz').first
verbs.load_pretrained('gpt2').apply({'input_ids': [[1, 2, 3]]})['logits']
"""

from collections.abc import Sequence
from typing import Any

from etils import epath

from bigmodel_jax import compatibility, config
from bigmodel_jax.catalogue import catalogue
from bigmodel_jax.compression import compressing
from bigmodel_jax.data.text.chats import loss_mask
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.export import exporting, opened
from bigmodel_jax.hosts import processes
from bigmodel_jax.interop import certifying, conversion, huggingface
from bigmodel_jax.launch.doctor import doctor as examining
from bigmodel_jax.papers import checks
from bigmodel_jax.papers import judge as judging
from bigmodel_jax.parallel import sharding
from bigmodel_jax.plan import plan as planning
from bigmodel_jax.plan import search as searching
from bigmodel_jax.plan.hardware import prices, slices
from bigmodel_jax.report import describe as descriptions
from bigmodel_jax.report import report
from bigmodel_jax.report.live import server
from bigmodel_jax.report.profile import profiled_run
from bigmodel_jax.reproduce import diff as differing
from bigmodel_jax.reproduce import replay as replaying
from bigmodel_jax.reproduce import verify as verifying
from bigmodel_jax.runs import directory
from bigmodel_jax.serve import served_model
from bigmodel_jax.serve import server as serving
from bigmodel_jax.sweeps import sweep_directory, sweeping
from bigmodel_jax.sweeps.reporting import answer as answering
from bigmodel_jax.sweeps.reporting import writing
from bigmodel_jax.train import loop, state
from bigmodel_jax.train.monitoring import profiling

open_run = directory.open_run
# find_runs(*roots): every run below some directories; see catalogue.find_runs().
find_runs = catalogue.find_runs
# watch(*roots): a context manager that serves the live page; see server.LivePage.
watch = server.LivePage
load_pretrained = huggingface.load_pretrained
# compress(run, directory, methods.Quantize(...)): a smaller model of a run; see compressing.compress().
compress = compressing.compress
convert, certify = conversion.convert, certifying.certify
# export(run, destination, ExportOptions(...)): a directory that works without this package; open_export() reads it.
export, open_export = exporting.export, opened.open_export
write_report = report.write_report
is_sweep, write_answer = sweep_directory.is_sweep, writing.write_answer


def train(experiment: Experiment, workdir: epath.PathLike, **how: Any) -> loop.TrainingResult:
    """Trains `experiment`, or goes on training it, and writes the report; see loop.train().

    Raises:
      InputError: as loop.train(); or the report cannot be written, after the training.
    """
    result = loop.train(experiment, workdir, **how)
    if processes.is_first():
        write_report(result.workdir)
    return result


def describe(experiment: Experiment) -> dict[str, list[descriptions.ArrayRow]]:
    """Every array of the training state and how it lies on the mesh; needs neither data nor memory."""
    place = compatibility.check(experiment).mesh.build()
    with sharding.use(place):
        spec = state.specify(experiment, place)
    abstract, shardings = spec.abstract, spec.shardings
    return {
        'parameters': descriptions.rows(abstract.params, spec.axes, shardings.params, training=spec.groups.described()),
        'optimizer state': descriptions.rows(abstract.opt_state, None, shardings.opt_state),
        'model state': descriptions.rows(abstract.model_state, None, shardings.model_state),
    }


def tokens(experiment: Experiment, rows: int) -> list[loss_mask.TokenRow]:
    """The documents in the first rows of the training data, token by token, and which tokens carry loss."""
    return loss_mask.shown(experiment.data.open(experiment.seed), rows)


def diff(left: epath.PathLike, right: epath.PathLike) -> differing.Diff:
    """Where the runs in two directories differ, and why; see diff.compare()."""
    return differing.compare(open_run(left), open_run(right))


def judge(run: epath.PathLike, seeds: Sequence[epath.PathLike] = ()) -> list[judging.Judged]:
    """What came of each claim of the paper in the run in a directory, with those that differ in the seed alone."""
    return judging.judge(open_run(run), [open_run(other) for other in seeds])


def answer(sweep: epath.PathLike) -> answering.SweepAnswer:
    """What the sweep in a directory answers so far: each arm against the baseline; write_answer() writes the report.

    Raises:
      InputError: there is no sweep, or its sweep.json is damaged.
    """
    return answering.collect(sweep_directory.open_sweep(sweep))


def verify(run: epath.PathLike, **how: Any) -> verifying.Verification:
    """Repeats the run in a directory, or a part of it, and compares; see verify.verify()."""
    return verifying.verify(open_run(run), **how)


def replay(run: epath.PathLike, step: int, **how: Any) -> replaying.Replay:
    """One step of the run in a directory once more; see replay.replay()."""
    return replaying.replay(open_run(run), step, **how)


def serve(run: epath.PathLike, name: str | None = None, **how: Any) -> serving.ModelServer:
    """A context manager that serves the run in a directory over HTTP; see serve/server.py.

    Args:
      name: of the model in requests; None: that of the directory.
      how: `access` and `limits`, as of ModelServer.
    """
    return serving.ModelServer(served_model.ServedModel.of_run(open_run(run).restore(), name), **how)


def profile(run: epath.PathLike, steps: profiling.Steps | None = None, **how: Any) -> profiled_run.RunProfile:
    """Where the time of some steps of the run in a directory goes; see profiled_run.profile()."""
    return profiled_run.profile(open_run(run), steps, **how)


def plan(
    experiment: Experiment,
    on: Sequence[slices.Slice],
    *,
    fast: bool = False,
    table: prices.Prices | None = None,
    say: planning.Say | None = None,
) -> list[planning.Plan]:
    """What each slice would make of `experiment`; see plan.make(). Neither data nor an accelerator is touched."""
    compatibility.check(experiment)
    return [planning.make(experiment, each, fast=fast, table=table, say=say) for each in on]


def confirm(
    experiment: Experiment,
    result: searching.SearchResult,
    count: int,
    *,
    table: prices.Prices | None = None,
    say: planning.Say | None = None,
) -> list[planning.Plan]:
    """The best `count` choices of a search, compiled."""
    best = result.ranked[:count]
    chosen = [(config.vary(experiment, each.settings), slices.parse(each.slice)) for each in best]
    return [planning.make(varied, on, table=table, say=say) for varied, on in chosen]


# doctor(LaunchRequest(...)): what would go wrong in a launch, a CheckResult each; see doctor.examine().
doctor = examining.examine
sweep = sweeping.sweep
search = searching.search
# check(experiments, only=None): what the paper says of each, claim by claim, against what it is; see checks.check().
check = checks.check


def parameters(experiment: Experiment) -> int:
    """How many numbers the parameters of an experiment's model are; needs neither data nor memory."""
    return checks.ExperimentFacts(experiment).parameters()
