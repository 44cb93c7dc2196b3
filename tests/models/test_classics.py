"""AlexNet, ResNet, ViT and recurrent language models against PyTorch and transformers, and their published sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import classics

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.models import alexnet, recurrent, resnet, vit
from bigmodel_jax.objectives import classification, language, objective

# What float32 is off here, and what a wrong epsilon, stride, padding or order of axes changes at least, lie apart.
TOLERANCE = {'float64': 5e-9, 'float32': 1e-4}
IMAGES = ('alexnet', 'resnet_basic', 'resnet_bottleneck', 'vit')
DECODERS = ('rnn_lm', 'gru_lm', 'lstm_lm')


class Case:
    """A model with the weights of a case."""

    def __init__(self, case, dtype):
        self.found, self.state = classics.recorded(case), {}
        w, gradients = self.found['weights'], self.found['gradients']
        w = {name: array.astype(np.float64) for name, array in w.items()}
        if case in DECODERS:
            self.model, self.of = classics.language_model(case), language.LanguageModel()
            self.params = classics.language_params(case, w)
            self.gradients = classics.language_params(case, gradients, gradients=True)
            self.batch = {'inputs': self.found['in']['x'], 'targets': self.found['in']['y']}
        else:
            self.model, of = classics.MODELS[case]
            self.of, self.params, self.gradients = classification.Classification(), of(w), of(gradients)
        if case in classics.RESNETS:
            self.state = {'batch_stats': classics.resnet_statistics(self.model, w)}
        if case in IMAGES:
            self.batch = {'image': classics.images(self.found['in']), 'labels': self.found['in']['labels']}
        self.batch['example_weights'] = np.ones(len(next(iter(self.batch.values()))), np.float32)
        self.model = config.vary(self.model, {'dtype': dtype})
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), self.params)

    def outcome(self, params, *, train):
        """The loss, and what else the objective gives."""
        apply = objective.Apply(self.model.build(), params, self.state)
        found = self.of(apply, self.batch, train=train, rngs={})
        return found.loss.total / found.loss.count, found

    def logits(self, params):
        return self.model.build().apply({'params': params, **self.state}, self.batch)['logits']


def slow_but(cases, always):
    return [pytest.param(case, marks=[] if case in always else [pytest.mark.slow]) for case in cases]


@pytest.mark.parametrize('dtype', slow_but(('float64', 'float32'), always=('float64',)))
@pytest.mark.parametrize('case', slow_but((*IMAGES, *DECODERS), always=('resnet_bottleneck',)))
def test_outputs_and_gradients_are_those_of_the_reference(case, dtype):
    """In float64 the outputs to rounding; the reference's gradients are of float32."""
    with jax.enable_x64(dtype == 'float64'):
        of = Case(case, dtype)

        @jax.jit
        def compute(params):
            loss = functools.partial(of.outcome, train=False)
            (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            return of.logits(params), value, gradients

        logits, loss, gradients = compute(of.params)
    np.testing.assert_allclose(logits, of.found['out64']['logits'], rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(loss, of.found['out64']['loss'], rtol=0, atol=TOLERANCE[dtype])
    assert jax.tree.structure(gradients) == jax.tree.structure(of.gradients)
    for (path, found), expected in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(of.gradients), strict=True
    ):
        # The bias of keys has no gradient but for rounding: softmax does not see it.
        atol = 1e-6 if 'key_bias' in str(path) else 5e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=str(path))


@pytest.mark.parametrize('case', slow_but(classics.RESNETS, always=()))
def test_batch_norm_in_training_is_that_of_the_reference(case):
    """The logits of a batch normalised by its own statistics, and the running ones after it."""
    with jax.enable_x64(True):
        of = Case(case, 'float64')
        loss, found = jax.jit(functools.partial(of.outcome, train=True))(of.params)
    extra = of.found['extra64']
    np.testing.assert_allclose(loss, extra['train_loss'], rtol=0, atol=TOLERANCE['float64'])
    running = {name.removeprefix('running/'): value for name, value in extra.items() if 'running' in name}
    expected = classics.resnet_statistics(of.model, running)
    jax.tree.map(
        # Stored in float32.
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found.model_state['batch_stats'], expected
    )  # fmt: skip


SIZES = {
    alexnet: {'ALEXNET_2012': 60_965_224, 'ALEXNET_ONE_TOWER': 61_100_840},
    resnet: {
        'RESNET_18': 11_689_512, 'RESNET_34': 21_797_672, 'RESNET_50': 25_557_032, 'RESNET_101': 44_549_160,
        'RESNET_152': 60_192_808,
        'RESNET_20': 269_722, 'RESNET_32': 464_154, 'RESNET_44': 658_586, 'RESNET_56': 853_018,
        'RESNET_110': 1_727_962, 'RESNET_1202': 19_421_274,
    },
    vit: {
        'VIT_B16': 86_567_656, 'VIT_B32': 88_224_232, 'VIT_L16': 304_326_632, 'VIT_L32': 306_535_400,
        'VIT_H14': 632_045_800, 'DEIT_TI16': 5_717_416, 'DEIT_S16': 22_050_664,
    },
    recurrent: {'ZAREMBA_SMALL': 4_651_600, 'ZAREMBA_MEDIUM': 19_775_200, 'ZAREMBA_LARGE': 66_022_000},
}  # fmt: skip
QUICK = ('ALEXNET_2012', 'VIT_B16', 'ZAREMBA_LARGE')
NAMED = [(module, name) for module, names in SIZES.items() for name in names]


def fields_of(module, name):
    if module is recurrent:
        tokens = batches.Field((4,), np.dtype(np.int32), ('length',), 10_000)
        return {'inputs': tokens, 'starts': batches.Field((), np.dtype(np.int32), (), 2)}
    side = 32 if getattr(module, name).classes == 10 else 224
    return {'image': batches.Field((side, side, 3), np.dtype(np.float32), ('height', 'width', 'channels'))}


@pytest.mark.parametrize(
    ('module', 'name'),
    [pytest.param(*each, marks=[] if each[1] in QUICK else [pytest.mark.slow], id=each[1]) for each in NAMED],
)
def test_published_model_has_its_number_of_parameters(module, name):
    model, fields = getattr(module, name), fields_of(module, name)
    model.check(fields)
    batch = {key: jax.ShapeDtypeStruct((1, *field.shape), field.dtype) for key, field in fields.items()}
    found = jax.eval_shape(model.build().init, jax.random.key(0), batch)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(found['params'])) == SIZES[module][name]


# ---- what does not fit ------------------------------------------------------------------------------------------


def image_fields(shape, classes=7):
    return {
        'image': batches.Field(shape, np.dtype(np.float32), ('height', 'width', 'channels')[: len(shape)]),
        'labels': batches.Field((), np.dtype(np.int32), (), classes),
    }


@pytest.mark.parametrize(
    ('model', 'shape', 'message'),
    [
        (classics.ALEXNET, (20, 20, 3), 'pool of 3 x 3 does not fit into an image of 1 x 1'),
        (resnet.RESNET_18, (32, 32), 'images of one channel have a last axis of 1'),
        (classics.VIT, (24, 30, 3), 'model.patch=8 does not divide the 24 x 30'),
        (classics.VIT, (24, 24, 3), 'has 3 x 3 patches, with the class token 10 positions; use 10'),
    ],
)
def test_images_that_do_not_fit_are_refused(model, shape, message):
    with pytest.raises(config.InputError, match=message):
        model.check(image_fields(shape))


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(config.InputError, match=r'model.classes=7, but the data has 9 classes; use model.classes=9'):
        classics.VIT.check(image_fields((24, 32, 3), classes=9))
    with pytest.raises(config.InputError, match='6 n \\+ 2 layers, not 51'):
        resnet.cifar_resnet(51)


def test_a_carried_state_needs_contiguous_text():
    module, batch = recurrent.zaremba(width=4, dropout=0.0, limit=0.1).build(), {'inputs': np.zeros((1, 4), np.int32)}
    variables = jax.eval_shape(module.init, jax.random.key(0), batch)
    with pytest.raises(config.InputError, match="batches with 'starts'"):
        jax.eval_shape(functools.partial(module.apply, mutable=['carried']), variables, batch)
