"""Retrieval and zero-shot classification against their definitions, on vectors that are planted."""

import pathlib

import jax
import numpy as np
import pytest

from bigmodel_jax import config, verbs
from bigmodel_jax.data.vision import captioned
from bigmodel_jax.evaluate.vision import retrieval
from bigmodel_jax.experiment_file import load

FILE = pathlib.Path(__file__).parents[3] / 'experiments' / 'clip2021.py'


def brute_force(images_ND, captions_ND, image_of_N):
    """The ranks of both ways, by the definition."""
    cosines = images_ND @ captions_ND.T
    to_text, to_image = [], []
    for image, row in enumerate(cosines):
        own = image_of_N == image
        to_text.append(int((row[~own] >= row[own].max()).sum()))
    for caption, column in enumerate(cosines.T):
        own = image_of_N[caption]
        to_image.append(int((np.delete(column, own) >= column[own]).sum()))
    return {'image_to_text': to_text, 'text_to_image': to_image}


def test_ranks_are_those_of_the_definition_with_several_captions_and_ties():
    generator = np.random.default_rng(0)
    numbers_N = np.sort(np.concatenate([np.arange(7), generator.integers(0, 7, 6)]))
    images_ND, captions_ND = (generator.integers(-2, 3, (13, 3)).astype(float) for _ in range(2))
    images_ND = images_ND[np.searchsorted(numbers_N, numbers_N)]  # The captions of an image show one image.
    embedded = retrieval.Embedded.of(images_ND, captions_ND, numbers_N)
    wanted = brute_force(images_ND[embedded.rows_N], captions_ND, numbers_N)
    found = embedded.ranks()
    assert {way: ranks_N.tolist() for way, ranks_N in found.items()} == wanted
    own = numbers_N[:, None] == np.arange(7)[None]
    in_parts = retrieval.ranks_of(captions_ND, embedded.images_ND, lambda some: own[some], rows=4)
    assert in_parts.tolist() == wanted['text_to_image']


def test_embeddings_that_are_all_alike_are_found_by_nobody():
    same_ND = np.ones((6, 2))
    ranks = retrieval.Embedded.of(same_ND, same_ND, np.arange(6)).ranks()
    assert all((each == 5).all() for each in ranks.values())


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The model of the experiment's smoke(), trained."""
    directory = tmp_path_factory.mktemp('clip')
    verbs.train(load(f'{FILE}:smoke'), directory)
    return verbs.open_run(directory).restore()


def embeddings(trained, batch):
    names = ('image', 'caption', 'caption_end')
    apply = jax.jit(trained.experiment.model.build().apply)
    outputs = apply({'params': trained.params}, {name: batch[name] for name in names if name in batch})
    return {name: np.asarray(value, np.float64) for name, value in outputs.items()}


@pytest.mark.slow
def test_a_class_is_the_mean_of_its_prompts_and_recall_counts_the_nearest(trained):
    found, experiment = trained.evaluate(), trained.experiment
    shot, searched = experiment.evaluations
    tokenizer = experiment.data.tokenizer.build()
    prompts = [template.replace('{}', name) for name in shot.names for template in shot.templates]
    rows = captioned.rows_of(tokenizer.encode_many(prompts), tokenizer, length=experiment.data.length)
    means_VD = embeddings(trained, rows)['text_embedding'].reshape(32, 2, -1).mean(axis=1)
    captions_VD = means_VD / np.linalg.norm(means_VD, axis=1, keepdims=True)
    batches = shot.data.open(0)
    images_ND = [embeddings(trained, {'image': batches.eval_batch(i)['image']})['image_embedding'] for i in range(2)]
    predicted_N = (np.concatenate(images_ND) @ captions_VD.T).argmax(axis=1)
    labels_N = np.concatenate([batches.eval_batch(i)['labels'] for i in range(2)])
    accuracy = found['zero_shot'].metrics['accuracy']
    assert accuracy.value == pytest.approx(100 * (predicted_N == labels_N).mean())
    assert accuracy.signature.startswith('prompts:')
    batch = searched.data.open(0)
    both = [embeddings(trained, batch.eval_batch(i)) for i in range(2)]
    images_ND, texts_ND = (
        np.concatenate([each[name] for each in both]) for name in ('image_embedding', 'text_embedding')
    )
    wanted = brute_force(images_ND, texts_ND, np.arange(32))
    metrics = found['retrieval'].metrics
    for way, ranks in wanted.items():
        for k in (1, 5, 10):
            assert metrics[f'{way}_r{k}'].value == pytest.approx(100 * np.mean(np.array(ranks) < k))
    table, *pictures = found['retrieval'].artifacts
    assert table.rows[0][:4] == ('image to text', 1, 32, 32)
    assert pictures[0].title.startswith('a green disc above (its own image is number ')


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'names': ('a', 'b')}, '2 names of classes, but its data has 32 classes'),
        ({'names': ('a',) * 32}, "two classes have the name 'a'"),
        ({'templates': ('a photo',)}, 'should have {} once'),
        ({'templates': ('{}' + ' and so on' * 9,)}, 'prompts have more than the 31 tokens'),
    ],
)
def test_names_and_templates_that_cannot_be_are_refused(changes, said, tmp_path):
    experiment = load(f'{FILE}:smoke')
    shot = config.vary(experiment.evaluations[0], changes)
    with pytest.raises(config.InputError, match=said):
        verbs.train(config.vary(experiment, {'evaluations': (shot,)}), tmp_path)
