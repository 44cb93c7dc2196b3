"""Parts of an experiment that do not fit one another are refused by one message, before anything is compiled."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tiny
from bigmodel_jax import compatibility, config, verbs
from bigmodel_jax.__main__ import main
from bigmodel_jax.data import batches
from bigmodel_jax.data.sources import text_files
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import classified, decoding, samples, translation
from bigmodel_jax.experiment import Checkpoints, EarlyStopping, Watch
from bigmodel_jax.layers import norms
from bigmodel_jax.models import bert, decoder, model, resnet, seq2seq
from bigmodel_jax.objectives import answer_spans, classification, language, masked, objective, regression, rngs
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import preparation

INT, FLOAT = np.dtype(np.int32), np.dtype(np.float32)
VOCAB, LENGTH, SIDE = 32, 8, 4
IDS = batches.Field((LENGTH,), INT, ('length',), VOCAB)
TEXT = {'inputs': IDS, 'targets': IDS}
LABELS = {'labels': batches.Field((), INT, (), 2)}
IMAGES = {'image': batches.Field((SIDE, SIDE), FLOAT, ('height', 'width')), **LABELS}
SENTENCES = {'inputs': IDS, **LABELS}
ENCODER = bert.bert(vocab=VOCAB, width=8, layers=1, heads=1, length=LENGTH)
GPT = decoder.gpt(vocab=VOCAB, width=8, layers=1, heads=1, length=LENGTH)
TRANSFORMER = seq2seq.transformer(vocab=VOCAB, width=8, layers=1, heads=1, hidden=8, dropout=0.1)
CLASSIFIER, SPANS = bert.Classifier(encoder=ENCODER, classes=2), bert.QuestionAnswering(encoder=ENCODER)
LM, CLASSES, NUMBERS = language.LanguageModel(), classification.Classification(), regression.Regression()
PREDICTED = batches.Field((3,), INT, ('predictions',), VOCAB)
MASKED_PAIRS = {
    **TEXT,
    'masked_positions': batches.Field((3,), INT, ('predictions',), LENGTH),
    'targets': PREDICTED,
    'is_random_next': batches.Field((), INT, (), 2),
}
PAIRS = {**TEXT, 'source': IDS}


@dataclasses.dataclass(frozen=True, eq=False)
class Given(batches.Data):
    """Data of these fields, which nobody reads."""

    given: object
    batch: int = 4

    @property
    def fields(self):
        return self.given


class Own(nn.Module):
    returns: object

    @nn.compact
    def __call__(self, batch):
        return self.returns(nn.Dense(2)(batch['image'].reshape(-1, SIDE * SIDE)))


@dataclasses.dataclass(frozen=True)
class OwnModel(model.Model):
    """A model of plain Flax, which does not say what it returns."""

    returns: object = lambda logits: {'logits': logits}

    def build(self, name=None):
        return Own(self.returns, name=name)


@dataclasses.dataclass(frozen=True)
class OwnObjective(objective.Objective):
    """An objective that does not say what it needs."""

    field: str = 'labels'
    output: str = 'logits'
    method: str | None = None
    stream: str = 'noise'
    streams = ('dropout', 'noise')

    def __call__(self, apply, batch, *, train, rngs):
        outputs, auxiliary = apply(batch, train=train, rngs=rngs, method=self.method)
        loss = outputs[self.output].sum() + batch[self.field].sum() + rngs[self.stream].size
        return objective.Outcome.of(Mean.of(jnp.float32(loss)), {}, auxiliary)


class Misspelt(OwnObjective):
    streams = ('dropuot',)


def experiment(fields, of, chosen, *evaluations):
    changes = {'data': Given(fields), 'model': of, 'objective': chosen, 'evaluations': evaluations}
    return dataclasses.replace(tiny.experiment(), **changes)


def validation(fields):
    return loss.Loss(data=Given(fields), every_steps=1)


def scored(fields):
    return classified.Classified(data=Given(fields), scores=(classified.Accuracy(),), every_steps=1)


SAMPLES = samples.Samples(prompts=('',), tokens=4, decoding=decoding.Greedy(), every_steps=1)
FILE = text_files.TextFile(path='none.txt')
BLEU = translation.Translation(source=FILE, target=FILE, decoding=decoding.Greedy(), every_steps=1)

FIT = {
    'a decoder': (TEXT, GPT, LM, validation(TEXT), SAMPLES),
    'a translator': (PAIRS, TRANSFORMER, LM, validation(PAIRS), BLEU),
    'pretraining': (TEXT, ENCODER, masked.MaskedLanguageModel(next_sentence=0.0)),
    'pretraining of masked positions': (MASKED_PAIRS, ENCODER, masked.MaskedLanguageModel(), validation(MASKED_PAIRS)),
    'classes': (SENTENCES, CLASSIFIER, CLASSES, scored(SENTENCES)),
    'numbers': (
        {'inputs': IDS, 'values': batches.Field((), FLOAT, ())},
        bert.Classifier(encoder=ENCODER, classes=1),
        NUMBERS,
    ),
    'spans': (
        {
            'inputs': IDS,
            'starts': batches.Field((), INT, (), LENGTH),
            'ends': batches.Field((), INT, (), LENGTH),
        },
        SPANS,
        answer_spans.AnswerSpans(),
    ),
    'plain Flax': (IMAGES, OwnModel(), CLASSES, validation(IMAGES), scored(IMAGES)),
    'an own objective': (IMAGES, OwnModel(), OwnObjective(), validation(IMAGES)),
}
# Parts, and what the message says: the field of the experiment, what is needed, what there is, what to use instead.
UNFIT = {
    'language model of images': (
        (IMAGES, OwnModel(), LM),
        r'^objective=LanguageModel needs a model whose module has features\(\) and head\(\); Own has not\. The model '
        r'OwnModel returns logits \[2\]; the data gives .*labels .* below 2.* use objective=Classification\(\)',
    ),
    'classification of text': (
        (TEXT, GPT, CLASSES),
        r"^objective=Classification needs .*'logits' of the model, \[classes\] for each example, but it is \[8 length, "
        r'32 vocab\].*use objective=LanguageModel\(\)',
    ),
    'masked language model of a decoder': (
        (TEXT, GPT, masked.MaskedLanguageModel()),
        r"^objective=Masked.*'mlm_logits'.*'nsp_logits'.*returns logits .* use objective=LanguageModel\(\), or .*Bert",
    ),
    'next sentences that the data has not': (
        (TEXT, ENCODER, masked.MaskedLanguageModel()),
        r'^objective=MaskedLanguageModel needs the field .*use objective=MaskedLanguageModel\(next_sentence=0\.0\)',
    ),
    'language model of an encoder': (
        (TEXT, ENCODER, LM),
        r'^objective=LanguageModel needs .*head\(\); BertModule has not.*next_sentence=0\.0',
    ),
    'answer spans of a classifier': (
        (SENTENCES, CLASSIFIER, answer_spans.AnswerSpans()),
        r"^objective=AnswerSpans needs .*'start_logits' .*'end_logits'.*Classification\(\), or .*QuestionAnswering",
    ),
    'regression of labels': (
        (SENTENCES, CLASSIFIER, NUMBERS),
        r"^objective=Regression needs the output 'values'.*labels \[\] int32 below 2.*use objective=Classification\(\)",
    ),
    'regression of integers': (
        ({'image': IMAGES['image'], **LABELS}, OwnModel(lambda x: {'values': x[:, 0]}), NUMBERS),
        r"^objective=Regression needs the field 'values' of the data, numbers one for each example",
    ),
    'more classes than logits': (
        (IMAGES | {'labels': batches.Field((), INT, (), 5)}, OwnModel(), CLASSES),
        r"^objective=Classification needs .*'labels'.*below the 2 of the last axis of 'logits', but they reach 4",
    ),
    'no targets': (
        ({'inputs': IDS}, GPT, LM),
        r"^objective=LanguageModel needs the field 'targets' of the data",
    ),
    'targets of another length': (
        (TEXT | {'targets': batches.Field((4,), INT, ('length',), VOCAB)}, GPT, LM),
        r"^objective=LanguageModel needs .*'targets'.*of the shape \[8\] of 'logits', not \[4\]",
    ),
    'labels that are no integers': (
        (IMAGES | {'labels': batches.Field((), FLOAT, ())}, OwnModel(), CLASSES),
        r"^objective=Classification needs the field 'labels' of the data, integers .*, but it is float32",
    ),
    'a field that an own model reads': (
        (TEXT, OwnModel(), LM),
        r"^model=OwnModel: Own asks for 'image', but the data gives example_weights, inputs, targets",
    ),
    'an own model that returns an array': (
        (IMAGES, OwnModel(lambda logits: logits), CLASSES),
        r"^model=OwnModel: Own returns a jax\.Array, .*return \{'logits': \.\.\.\}",
    ),
    'an own model without logits': (
        (IMAGES, OwnModel(lambda logits: {'scores': logits}), CLASSES),
        r"^objective=Classification needs the output 'logits'.*OwnModel returns scores \[2\]",
    ),
    'a field that an own objective reads': (
        (IMAGES, OwnModel(), OwnObjective(field='target')),
        r"^objective=OwnObjective needs what is not there: 'target'.*gives image \[4 height, 4 width\] float32",
    ),
    'an output that an own objective reads': (
        (IMAGES, OwnModel(), OwnObjective(output='scores')),
        r"^objective=OwnObjective needs what is not there: 'scores'\. The model OwnModel returns logits \[2\]",
    ),
    'a method that an own objective calls': (
        (IMAGES, OwnModel(), OwnObjective(method='encode')),
        r"^objective=OwnObjective needs what is not there: .*'encode'",
    ),
    'a stream that is not declared': (
        (IMAGES, OwnModel(), OwnObjective(stream='timestep')),
        r"'timestep' is not declared: the objective declares dropout, noise",
    ),
    'a stream that does not exist': ((IMAGES, OwnModel(), Misspelt()), "no random stream 'dropuot'; the streams are"),
    'an evaluation without labels': (
        (SENTENCES, CLASSIFIER, CLASSES, validation({'inputs': IDS})),
        r"^evaluations\.0 \('validation'\): Loss needs the field 'labels' of the data",
    ),
    'an evaluation with more classes': (
        (IMAGES, OwnModel(), CLASSES, validation(IMAGES | {'labels': batches.Field((), INT, (), 3)})),
        r"^evaluations\.0 \('validation'\): Loss needs .*'labels'.*but they reach 2",
    ),
    'an evaluation with other fields': (
        (SENTENCES, CLASSIFIER, CLASSES, validation(IMAGES)),
        r"^evaluations\.0 \('validation'\): its data Given does not fit the model\. Bert reads 'inputs'",
    ),
    'samples of an encoder': (
        (SENTENCES, CLASSIFIER, CLASSES, SAMPLES),
        r"^evaluations\.0 \('samples'\): Samples needs a model whose module has unembed\(\).*model decoder",
    ),
    'samples of a translator': (
        (PAIRS, TRANSFORMER, LM, SAMPLES),
        r"^evaluations\.0 \('samples'\): Samples needs a model whose module does without encode\(\)",
    ),
    'a translation by a decoder': (
        (TEXT, GPT, LM, BLEU),
        r"^evaluations\.0 \('test'\): Translation needs a model whose module has encode\(\).*model seq2seq",
    ),
    'scores of text': (
        (TEXT, GPT, LM, scored(TEXT)),
        r"^evaluations\.0 \('dev'\): Classified needs the output 'logits' of the model, \[classes\]",
    ),
}


@pytest.mark.parametrize('name', FIT)
def test_parts_that_fit_pass(name):
    compatibility.check(experiment(*FIT[name]))


@pytest.mark.parametrize('name', UNFIT)
def test_parts_that_do_not_fit_are_refused(name):
    parts, message = UNFIT[name]
    with pytest.raises(config.InputError, match=message):
        compatibility.check(experiment(*parts))


def test_every_way_to_begin_checks_it(capsys):
    parts, message = UNFIT['classification of text']
    wrong = experiment(*parts)
    for verb in (verbs.describe, lambda wrong: verbs.plan(wrong, ['v5e-8'])):
        with pytest.raises(config.InputError, match=message):
            verb(wrong)
    assert main(argv=['show', tiny.__file__, '--set', 'objective=Classification()']) == 2
    assert capsys.readouterr().err.startswith('error: objective=Classification needs')


def test_batch_norm_in_a_pipeline_is_refused():
    """The statistics of stacked layers; those before the stacks are no matter, and GroupNorm has none."""
    image = batches.Field((8, 8, 3), FLOAT, ('height', 'width', 'channels'))
    of = resnet.cifar_resnet(14, channels=(2, 2, 2), classes=2, **{'stem.filters.channels': 2})
    pipelined = dataclasses.replace(
        experiment({'image': image, **LABELS}, of, CLASSES), mesh=sharding.MeshShape(pipeline=2)
    )
    with pytest.raises(config.InputError, match=r"mesh\.pipeline splits layers that have state: .* of 'batch_stats'"):
        compatibility.check_parts(pipelined)
    compatibility.check_parts(config.vary(pipelined, {'model.block.norm': norms.GroupNorm(groups=2)}))


def asking(**changes):
    """An experiment that keeps its best checkpoint by a metric, or stops early by one."""
    checkpoints = Checkpoints(every_steps=10, keep_best=changes.get('best'))
    stopping = EarlyStopping(metric=changes['stopping']) if 'stopping' in changes else None
    found = experiment(TEXT, GPT, LM, loss.Loss(data=Given(TEXT), every_steps=10))
    return dataclasses.replace(found, checkpoints=checkpoints, watch=Watch(early_stopping=stopping))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'best': 'validation/los'}, r"^checkpoints\.keep_best='validation/los': .* has no metric 'los'.*'loss'"),
        ({'stopping': 'validation/acuracy'}, r"^watch\.early_stopping\.metric=.* no metric 'acuracy'.*'accuracy'"),
    ],
)
def test_a_metric_that_nothing_measures_is_refused_before_the_data_is_opened(changes, message):
    for verb in (compatibility.check, verbs.describe, lambda wrong: verbs.plan(wrong, ['v5e-8']), preparation.build):
        with pytest.raises(config.InputError, match=message):
            verb(asking(**changes))


def test_the_directions_of_metrics_are_known_without_data():
    found = compatibility.directions(asking(best='validation/accuracy', stopping='validation/perplexity'))
    assert found == ('higher', 'lower')


@pytest.mark.parametrize('name', [name for name, parts in FIT.items() if not isinstance(parts[1], OwnModel)])
def test_models_return_what_they_say(name):
    """Against the module itself, traced."""
    fields, of, *_ = FIT[name]
    said, traced = of.outputs(fields), model.traced_outputs(of, fields)
    assert {key: (each.shape, each.dtype) for key, each in said.items()} == {
        key: (each.shape, each.dtype) for key, each in traced.items()
    }
    assert all(len(each.axes) == len(each.shape) for each in said.values())


def test_streams_of_an_experiment_are_those_of_the_package():
    assert {name for each in compatibility.OBJECTIVES.values() for name in each.streams} <= rngs.FOLDED_WITH.keys()
