"""Reference log-probabilities: the first loss is ln 2; they are computed once, and never belong to other weights."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from etils import epath

from bigmodel_jax import config, initialization
from bigmodel_jax.adapters import lora
from bigmodel_jax.data import cache, sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import chat_templates, preferences
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.objectives import preferences as objectives
from bigmodel_jax.optim import optimizers, parameter_groups, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import directory
from bigmodel_jax.train import initial_state, loop, preparation

PAIRS = [{'prompt': f'{i}', 'chosen': 'yes' * (i % 4 + 1), 'rejected': 'no' + 'o' * (i % 5)} for i in range(11)]
SMALL = decoder.gpt(vocab=320, width=8, layers=1, heads=1, length=64, **{'block.residual.dropout': 0.5})


def written(path, pairs=PAIRS):
    path.write_text(''.join(json.dumps(pair) + '\n' for pair in pairs))
    return sources.JsonLines(pattern=str(path))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('preferences')


@pytest.fixture(scope='module')
def experiment(folder):
    data = preferences.Preferences(
        source=written(folder / 'pairs.jsonl'), tokenizer=tokenizers.Bytes(), batch=4, length=64,
        template=chat_templates.Plain(user='U', assistant='A', separator=''),
    )  # fmt: skip
    held_out = dataclasses.replace(data, source=written(folder / 'held_out.jsonl', PAIRS[:5]))
    return Experiment(
        name='preferences', steps=3, data=data, model=SMALL, objective=objectives.Dpo(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=1)),
        evaluations=(loss.Loss(data=held_out, every_steps=3),), checkpoints=Checkpoints(every_steps=2),
        watch=Watch(log_every=1), mesh=sharding.MeshShape(data=1),
    )  # fmt: skip


@pytest.fixture(scope='module')
def run(folder, experiment):
    result = loop.train(experiment, folder / 'run', stop_after=2)
    assert result.step == 2
    return directory.open_run(folder / 'run')


def test_the_first_loss_is_ln_2(run):
    _, losses = run.metrics('loss')
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[1] < math.log(2) - 1e-4  # It is learned from; elsewhere a reference that followed gave 0 for ever.
    _, margins = run.metrics('reward_margin')
    assert margins[0] == pytest.approx(0, abs=1e-6)
    assert margins[1] > 1e-4


@pytest.mark.slow
def test_a_resumed_run_and_its_evaluation_have_the_reference_of_its_start(folder, experiment, run, monkeypatch):
    undisturbed = loop.train(experiment, folder / 'undisturbed')
    # Neither reads the initial weights again: they may be gone.
    monkeypatch.setattr(initial_state, 'begin', None)
    resumed = loop.train(experiment, run.path)
    assert resumed.digest == undisturbed.digest
    assert resumed.metrics == undisturbed.metrics
    found = directory.open_run(run.path).restore().evaluate()['validation'].values
    assert {f'validation/{name}': value for name, value in found.items()} == pytest.approx(resumed.metrics, rel=1e-6)
    about = json.loads((epath.Path(run.path) / 'environment.json').read_text())[0]['data']['reference']
    assert len(about['weights']) == 64


def values(experiment, workdir=None):
    """The reference of every example, and the fingerprint."""
    built = preparation.prepare(experiment, workdir)
    rows = np.arange(len(built.data.examples))
    found = built.data.examples.gather(rows, np.zeros_like(rows), 0)[preferences.REFERENCE]
    return found, built.data.examples.fingerprint['reference']


@pytest.mark.slow
def test_other_weights_data_and_templates_have_their_own(folder, experiment):
    whole, about = values(experiment)
    other, about_other = values(config.vary(experiment, {'seed': 1}))
    assert about['weights'] != about_other['weights']
    assert (whole != other).any()
    template = config.vary(experiment, {'data.template.assistant': 'B'})
    entries = len(list((cache.root() / 'references').iterdir()))
    assert (values(template)[0] != whole).any()
    assert len(list((cache.root() / 'references').iterdir())) == entries + 1  # The data of the evaluation is as it was.
    # Another beta needs nothing new.
    np.testing.assert_array_equal(values(config.vary(experiment, {'objective.beta': 0.5}))[0], whole)
    assert len(list((cache.root() / 'references').iterdir())) == entries + 1


@pytest.mark.slow
def test_the_reference_is_the_sum_over_one_conversation_alone(experiment):
    """Neither conversation of a pair sees the other: each is as in a row of its own."""
    built = preparation.prepare(experiment)
    examples, module = built.data.examples, SMALL.build()
    params = built.spec.init().params
    rows = examples.gather(np.array([3]), np.array([0]), 0)
    for segment in (preferences.CHOSEN, preferences.REJECTED):
        here = rows['segments'][0] == segment
        inputs = np.pad(rows['inputs'][:, here], [(0, 0), (0, 40)])[:, :32]
        logits = module.apply({'params': params}, {'inputs': inputs})
        log_p = jax.nn.log_softmax(logits['logits'][0])[np.arange(here.sum()), rows['targets'][0, here]]
        expected = np.where(rows['loss_weights'][0, here] > 0, log_p, 0)
        np.testing.assert_allclose(rows[preferences.REFERENCE][0, here], expected, atol=2e-6)


@pytest.mark.slow
def test_another_run_is_the_reference_and_must_stay_as_it_was(folder, experiment, run):
    source = initial_state.FromRun(run=str(run.path), step=2)
    begun = config.vary(experiment, {'initialization': source, 'steps': 1, 'evaluations': ()})
    first = loop.train(begun, folder / 'continued')
    assert directory.open_run(folder / 'continued').metrics('loss')[1][0] == pytest.approx(math.log(2), abs=1e-6)
    assert first.step == 1
    # Beginning at random, with that run as the reference: the margins are not 0.
    beside = config.vary(experiment, {'objective.reference': source, 'steps': 1, 'evaluations': ()})
    np.testing.assert_array_equal(values(beside)[0], values(begun)[0])
    loop.train(beside, folder / 'beside')
    assert abs(directory.open_run(folder / 'beside').metrics('reward_margin')[1][0]) > 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changing(initialization.Initialization):
    """Weights that a file scales."""

    file: str

    def check(self, wanted):
        pass

    def read(self, wanted):
        scale = float(epath.Path(self.file).read_text())
        arrays = {
            name: jax.device_put(np.full(each.shape, scale, each.dtype), each.sharding) for name, each in wanted.items()
        }
        return initialization.ResolvedWeights(arrays, {'file': self.file})


@pytest.mark.slow
def test_a_reference_that_changed_is_refused(folder, experiment):
    file = folder / 'scale'
    file.write_text('0.5')
    changing = config.vary(
        experiment, {'initialization': Changing(file=str(file)), 'evaluations': (), 'data.length': 60}
    )
    loop.train(changing, folder / 'changing', stop_after=2)
    file.write_text('0.25')
    loop.train(changing, folder / 'changing', stop_after=2)  # From the cache.
    for entry in (cache.root() / 'references').iterdir():
        for path in sorted(entry.iterdir()):
            path.unlink()
        entry.rmdir()
    with pytest.raises(config.InputError, match=r'are not in the cache .* any more, and the weights .* have changed'):
        loop.train(changing, folder / 'changing')
    file.write_text('0.5')
    loop.train(changing, folder / 'changing')


@pytest.mark.slow
def test_frozen_weights_leave_the_first_loss_at_ln_2(folder, experiment):
    groups = (parameter_groups.Group(match='embedding.*', frozen=True),)
    loop.train(config.vary(experiment, {'optimizer.groups': groups, 'evaluations': (), 'steps': 2}), folder / 'frozen')
    losses = directory.open_run(folder / 'frozen').metrics('loss')[1]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[1] < math.log(2)


@pytest.mark.slow
def test_adapters_begin_as_the_reference_and_leave_it(folder, experiment, run):
    """The reference is the base with its adapters off, and after fine-tuning by adapters the base with them on."""
    adapted = config.vary(
        experiment,
        {
            'adapter': lora.Lora(rank=2, alpha=4.0), 'evaluations': (), 'steps': 2, 'checkpoints.every_steps': 2,
            'initialization': initial_state.FromRun(run=str(run.path), step=2),
        },
    )  # fmt: skip
    loop.train(adapted, folder / 'adapted')
    np.testing.assert_array_equal(values(adapted)[0], values(config.vary(adapted, {'adapter': None}))[0])
    again = config.vary(adapted, {'initialization': initial_state.FromRun(run=str(folder / 'adapted'))})
    loop.train(again, folder / 'again')
    for name in ('adapted', 'again'):
        losses = directory.open_run(folder / name).metrics('loss')[1]
        assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
        assert 0 < losses[1] < math.log(2) - 1e-5


def test_preferences_and_objectives_belong_together(experiment):
    with pytest.raises(config.InputError, match='is for an objective of preferences, such as Dpo'):
        preparation.prepare(config.vary(experiment, {'objective': language.LanguageModel(), 'evaluations': ()}))


@pytest.mark.slow
def test_a_mesh_gives_the_reference_of_one_device(experiment):
    experiment = config.vary(experiment, {'model.block.mixer.heads': 2})
    alone, _ = values(experiment)
    for shape in ({'data': 4}, {'fsdp': 2, 'tensor': 2}, {'sequence': 4}):
        entry = cache.root() / 'references'
        for path in entry.iterdir():
            (path / 'contents.json').unlink(missing_ok=True)  # Damaged: it is computed again.
        found, _ = values(config.vary(experiment, {'mesh': sharding.MeshShape(**shape)}))
        np.testing.assert_allclose(found, alone, atol=2e-5)
