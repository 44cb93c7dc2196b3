"""Images of a diffusion run by the verb `sample`: what they depend on, by which weights, and what is refused."""

import denoiser
import numpy as np
import pytest

from bigmodel_jax import config, experiment, verbs
from bigmodel_jax.__main__ import main
from bigmodel_jax.data.vision import drawn, images, transforms
from bigmodel_jax.evaluate import artifacts
from bigmodel_jax.evaluate.diffusion import image_generator, image_samples, samplers
from bigmodel_jax.objectives.diffusion import edm
from bigmodel_jax.optim import ema, optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.runs import generated_images
from bigmodel_jax.train import loop
from runs import run_maker

EXPERIMENT = experiment.Experiment(
    name='images',
    steps=100,
    data=images.Images(
        source=drawn.Gratings(count=16, shape=denoiser.SHAPE, classes=3),
        shape=denoiser.SHAPE,
        classes=3,
        batch=8,
        transforms=(transforms.Normalize(mean=(0.5,), deviation=(0.2,)),),
    ),
    model=denoiser.TwoMatrices(),
    objective=edm.Edm(label_dropout=0.1),
    optimizer=optimizers.Sgd(schedule=schedules.Constant(peak=0.1)),
    ema=ema.Ema(decay=0.5),
    mesh=sharding.MeshShape(data=1),
    evaluations=(
        image_samples.ImageSamples(
            sampler=samplers.Heun(steps=2, sigma_max=1.0, guidance=samplers.Guidance(scale=2.0)), every_steps=100
        ),
    ),
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp('run')
    loop.train(EXPERIMENT, directory, stop_after=2)  # Before the evaluation at the end.
    return directory


def sample(run, *arguments):
    return main(argv=['sample', str(run), *map(str, arguments)])


def test_images_depend_on_seed_index_and_class_and_no_file_is_overwritten(trained, tmp_path, capsys):
    many, few = tmp_path / 'many', tmp_path / 'few'
    assert sample(trained, '--seed', 5, '--count', 17, '--out', many) == 0  # More than are made at a time.
    names = [f'seed5_image{i:05}_class{i % 3}.png' for i in range(17)]
    assert capsys.readouterr().out.splitlines() == [str(many / name) for name in names]
    assert sample(trained, '--seed', 5, '--class', 0, '--class', 1, '--out', few) == 0
    assert [path.name for path in sorted(few.iterdir())] == names[:2]
    for path in few.iterdir():
        assert path.read_bytes() == (many / path.name).read_bytes()
    # They are those of the evaluation's generator by the averaged weights, with the normalization undone.
    run, other = (verbs.open_run(trained).restore(weights=weights) for weights in ('ema', 'trained'))
    of = image_generator.TrainedDenoiser(EXPERIMENT.model, EXPERIMENT.objective, denoiser.SHAPE)
    sampler = EXPERIMENT.evaluations[0].sampler
    generator = image_generator.ImageGenerator(of, sampler, place=run.place, seed=5, rows=16)

    def png(params):
        made = np.clip(generator(params, run.model_state, [16], [1]) * 0.2 + 0.5, 0, 1)
        return artifacts.Image.of(made[0]).content

    assert png(run.params) == (many / names[16]).read_bytes() != png(other.params)
    before = {path: path.read_bytes() for path in few.iterdir()}
    capsys.readouterr()
    assert sample(trained, '--seed', 5, '--count', 4, '--guidance', 3, '--out', few) == 2
    assert 'seed5_image00000_class0.png is there already; nothing was written' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in few.iterdir()} == before


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ('', 'say where to write them: --out DIR'),
        ('--prompt x --top-k 3 --out DIR', '--prompt and --top-k: not of a run that generates images'),
        ('--class 3 --out DIR', 'no class 3; its classes are 0 to 2'),
        ('--class 0 --class 1 --count 1 --out DIR', '2 classes are given for 1 images'),
        ('--seed -1 --out DIR', 'seed'),
        ('--guidance -1 --out DIR', 'scale'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(arguments, said, trained, tmp_path, capsys):
    out = tmp_path / 'out'
    assert sample(trained, *arguments.replace('DIR', str(out)).split()) == 2
    error = capsys.readouterr().err
    assert (said in error, error.count('\n'), out.exists()) == (True, 1, False), error


def test_options_of_images_are_refused_for_text_and_guidance_without_label_dropout(tmp_path, capsys):
    text = run_maker.write(tmp_path / 'text', [], sessions=[])
    assert sample(text, '--count', 3, '--class', 1) == 2
    assert '--count and --class: only of a run that generates images' in capsys.readouterr().err
    plain = config.vary(EXPERIMENT, {'objective.label_dropout': 0.0, 'evaluations': ()})
    assert generated_images.sampler_of(plain, steps=4, guidance=1.0) == samplers.Heun(steps=4)
    with pytest.raises(config.InputError, match=r'never trained without one: objective.label_dropout=0'):
        generated_images.sampler_of(plain, guidance=2.0)
