"""AlexNet on ImageNet as published: two groups, momentum, weight decay, rates cut by ten, colour noise.

Question: is this the paper's network and recipe, number by number?
Source:   Krizhevsky et al. (2012), ImageNet Classification with Deep Convolutional Neural Networks. The rate was cut by
          hand, three times, when the validation error stood still; here after 30, 60 and 80 of the 90 epochs.
Target:   errors of one network on the validation set: top-1 40.7%, top-5 18.2% (table 2), with predictions that are
          averaged over ten crops (section 4.1). The loss along the way is that of the middle crop.
Data:     TFDS imagenet2012, prepared from the files of image-net.org.
Run:      python -m bigmodel_jax train experiments/alexnet2012.py --workdir gs://BUCKET/alexnet
          ... experiments/alexnet2012.py:one_tower ...: the network of 2014, as torchvision has it
Check:    python -m bigmodel_jax check experiments/alexnet2012.py
          python -m bigmodel_jax train experiments/alexnet2012.py:smoke --workdir /tmp/alexnet_smoke
"""

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources, transforms
from bigmodel_jax.data.vision import augmentations, drawn, images, views
from bigmodel_jax.data.vision import transforms as changes
from bigmodel_jax.evaluate import classes, loss
from bigmodel_jax.evaluate.vision import image_gallery
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import alexnet
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules

BATCH, EPOCH = 128, 1_281_167 // 128
EPOCHS, CUTS = 90, (30, 60, 80)  # 'Roughly 90 cycles' (section 5).
# The mean activity over the training set is subtracted (section 2); as one number for each channel.
NORMALIZE = changes.Normalize(mean=(0.485, 0.456, 0.406))
NETWORK = alexnet.ALEXNET_2012


def imagenet(split: str, *, batch: int, crop: tuple[transforms.Transform, ...]) -> images.Images:
    source: records.Source = sources.Tfds(name='imagenet2012', split=split)
    # The shorter side has 256 pixels, and the middle of the longer one is kept (section 2).
    square = (augmentations.ResizeShorter(side=256), changes.CenterCrop(size=(256, 256)))
    made = (*square, *crop, NORMALIZE)
    return images.Images(source=source, shape=(224, 224, 3), classes=1_000, batch=batch, transforms=made)


CLAIMS: tuple[claims.Claim, ...] = (
    claims.Parameters(where='abstract', value=60_965_224, printed='60 million'),
    claims.Shape(where='3.5', parameter='stages.convolution1.kernel', value=(11, 11, 3, 96)),
    claims.Shape(where='3.5: of 48 channels', parameter='stages.convolution2.kernel', value=(5, 5, 48, 256)),
    claims.Shape(where='3.5: of all 256 channels', parameter='stages.convolution3.kernel', value=(3, 3, 256, 384)),
    claims.Shape(where='3.5: of 192 channels', parameter='stages.convolution4.kernel', value=(3, 3, 192, 384)),
    claims.Shape(where='3.5: of 192 channels', parameter='stages.convolution5.kernel', value=(3, 3, 192, 256)),
    claims.Shape(where='3.5', parameter='hidden2', value=(4_096, 4_096)),
    claims.Setting(where='3.3', path='model.stages.0.after.0.neighbours', value=5),
    claims.Setting(where='3.3', path='model.stages.0.after.0.bias', value=2.0),
    claims.Setting(where='3.3', path='model.stages.0.after.0.alpha', value=1e-4),
    claims.Setting(where='3.3', path='model.stages.0.after.0.beta', value=0.75),
    claims.Setting(where='3.4', path='model.stages.0.after.1.window', value=3),
    claims.Setting(where='3.4', path='model.stages.0.after.1.stride', value=2),
    claims.Setting(where='4.1', path='data.transforms.4.deviation', value=0.1),
    claims.Setting(where='4.2', path='model.dropout', value=0.5),
    claims.Setting(where='5', path='data.batch', value=BATCH),
    claims.Setting(where='5', path='optimizer.momentum', value=0.9),
    claims.Setting(where='5', path='optimizer.weight_decay', value=5e-4),
    claims.Setting(where='5', path='model.init.stddev', value=0.01),
    claims.Setting(where='5', path='model.bias_value', value=1.0),
    claims.LearningRate(where='5', step=1, value=0.01),
    claims.LearningRate(where='5: reduced three times', step=EPOCHS * EPOCH, value=1e-5),
    claims.Measured(where='table 2, 1 CNN', metric='test/error', value=40.7, tolerance=0.05),
    claims.Measured(where='table 2, 1 CNN', metric='test/top5_error', value=18.2, tolerance=0.05),
)


def experiment() -> Experiment:
    augment = (changes.RandomCrop(size=(224, 224)), changes.RandomFlip(), augmentations.ColorNoise())
    test = imagenet('validation', batch=256, crop=(changes.CenterCrop(size=(224, 224)),))
    ten_crops = vary(imagenet('validation', batch=320, crop=()), {'views': views.TenCrops(size=(224, 224))})
    return Experiment(
        name='alexnet2012',
        steps=EPOCHS * EPOCH,
        data=imagenet('train', batch=BATCH, crop=augment),
        model=NETWORK,
        objective=classification.Classification(),
        optimizer=optimizers.Sgd(
            schedule=schedules.Stepwise(peak=0.01, boundaries=tuple(cut * EPOCH for cut in CUTS)),
            momentum=0.9,
            weight_decay=5e-4,
        ),
        evaluations=(
            loss.Loss(data=test, every_steps=EPOCH),
            classes.Classes(data=ten_crops, every_steps=10 * EPOCH, showing=image_gallery.ImageGallery()),
        ),
        checkpoints=Checkpoints(every_steps=EPOCH),
        workers=16,
        claims=CLAIMS,
    )


def one_tower() -> Experiment:
    """The network of 2014 with the same recipe; torchvision's count."""
    count = claims.Parameters(where='arXiv:1404.5997, as torchvision has it', value=61_100_840)
    return vary(experiment(), {'name': 'one_tower', 'model': alexnet.ALEXNET_ONE_TOWER, 'claims': (count,)})


def smoke() -> Experiment:
    """Seconds: small images of stripes, and a network of the same form with few channels."""
    channels = (8, 16, 16, 16, 16)
    sizes = {f'model.stages.{i}.filters.channels': count for i, count in enumerate(channels)}
    source = drawn.Gratings(count=64, shape=(80, 72, 3), classes=6)
    data = {'source': source, 'shape': (64, 64, 3), 'classes': 6, 'batch': 8}
    data |= {'transforms.0.side': 72, 'transforms.1.size': (72, 72)}
    test = {**data, 'source': vary(source, {'count': 20, 'first': 1_000})}
    tiny = {
        **sizes,
        **{f'data.{path}': value for path, value in data.items()},
        **{f'evaluations.{i}.data.{path}': value for i in (0, 1) for path, value in test.items()},
        'data.transforms.2.size': (64, 64),
        'evaluations.0.data.transforms.2.size': (64, 64),
        'evaluations.1.data.views.size': (64, 64),
        'model.hidden': (32, 32),
        'model.classes': 6,
        'steps': 6,
        'optimizer.schedule.boundaries': (4, 5, 6),
        'evaluations.0.every_steps': 3,
        'evaluations.1.every_steps': 6,
        'checkpoints.every_steps': 6,
        'workers': 1,
        'watch.log_every': 2,
        'claims': (),
    }
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
