"""DETR as published: a ResNet, a Transformer and 100 queries on COCO.

Question: are these the paper's model and recipe, number by number?
Source:   Carion et al. (2020), arXiv:2005.12872, table 1 and section A.4; the released code for the weights of the loss
          and the gradient's norm. As in transformers, the feed-forward layers have no dropout inside, which the
          authors' code has.
Target:   42.0 AP with a ResNet-50 and 43.5 with a ResNet-101, of the model of epoch 500 on the 5,000 images of val2017;
          62.4 and 63.8 at an IoU of 0.5 (table 1). With 150 epochs the released model has 39.5.
Data:     TFDS coco/2017, prepared from the files of cocodataset.org; or these files themselves, `--arg path=FOLDER`
          with train2017/, val2017/ and annotations/. The backbone begins with the weights of ImageNet:
          `--arg backbone=DIR`, a directory of transformers or torchvision such as microsoft/resnet-50.
Run:      python -m bigmodel_jax train experiments/detr2020.py --arg backbone=DIR --workdir gs://BUCKET/detr
          python -m bigmodel_jax sweep experiments/detr2020.py --workdir gs://BUCKET/detr_sweep
Check:    python -m bigmodel_jax check experiments/detr2020.py
          python -m bigmodel_jax train experiments/detr2020.py:smoke --workdir /tmp/detr_smoke
"""

from typing import NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.builders import digit_scenes
from bigmodel_jax.data.vision import transforms
from bigmodel_jax.data.vision.detection import boxes, coco_folder, detection_images, scenes
from bigmodel_jax.evaluate.vision import detections
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.initialization import Initialization
from bigmodel_jax.interop import finetuning
from bigmodel_jax.models.detection import detr
from bigmodel_jax.objectives.detection import detection
from bigmodel_jax.optim import optimizers, parameter_groups, schedules
from bigmodel_jax.parallel import sharding

IMAGENET = transforms.Normalize(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
LONGEST, BATCH = 1_333, 64
EPOCH = 118_287 // BATCH  # Images of train2017; those without objects too.
SIDES = tuple(range(480, 801, 32))
# Section A.4: half of the images are resized; of the others a part is.
AUGMENTATION = (
    scenes.FlipScene(),
    scenes.EitherOf(
        first=(scenes.ResizeShorterSide(sides=SIDES, longest=LONGEST),),
        second=(
            scenes.ResizeShorterSide(sides=(400, 500, 600)),
            scenes.RandomPart(sides=(384, 600)),
            scenes.ResizeShorterSide(sides=SIDES, longest=LONGEST),
        ),
    ),
)
TFDS = detection_images.ObjectFields(
    boxes='objects.bbox',
    labels='objects.label',
    crowd='objects.is_crowd',
    layout=boxes.TfdsShares(),
    skip_empty=True,
)
FILES = detection_images.ObjectFields(crowd='crowd', areas='areas')
# Batch norms stay as they are, and so do the first convolution and the first stage.
FROZEN = ('backbone.stem.*', 'backbone.stage1*', 'backbone.*norm*')
GROUPS = (
    *(parameter_groups.Group(match=match, frozen=True) for match in FROZEN),
    parameter_groups.Group(match='backbone.*', without=FROZEN, learning_rate_multiple=0.1),
)


class Row(NamedTuple):
    """Of a model what table 1 says, and the exact count of what is trained."""

    model: detr.Detr
    trained: int
    printed: str
    ap: float
    ap50: float


ROWS = {
    'r50': Row(detr.DETR_R50, 41_302_368, '41M', 42.0, 62.4),
    'r101': Row(detr.DETR_R101, 60_242_272, '60M', 43.5, 63.8),
}


def source(split: str, path: str) -> records.Source:
    """The images of 'train' or 'val'."""
    if not path:
        return sources.Tfds(name='coco/2017', split={'val': 'validation'}.get(split, split))
    return coco_folder.CocoFolder(
        images=f'{path}/{split}2017',
        annotations=f'{path}/annotations/instances_{split}2017.json',
        dense_labels=True,  # As in TFDS.
        skip_damaged=True,
    )


def claimed(row: Row, steps: int) -> tuple[claims.Claim, ...]:
    """What the paper says, number by number."""
    settings = {
        'data.batch': BATCH,
        'model.queries.count': 100,
        'model.width': 256,
        'model.encoder_layers': 6,
        'model.decoder_layers': 6,
        'model.block.mixer.heads': 8,
        'optimizer.weight_decay': 1e-4,
        'optimizer.clip_norm': 0.1,
        'objective.l1_weight': 5.0,
        'objective.giou_weight': 2.0,
        'objective.no_object': 0.1,
    }
    return (
        claims.Parameters(where='table 1', value=row.trained, printed=row.printed, without=FROZEN),
        *(claims.Setting(where='A.4', path=path, value=value) for path, value in settings.items()),
        claims.LearningRate(where='A.4', step=1, value=1e-4),
        claims.LearningRate(where='A.4', step=steps, value=1e-5),
        # The spread is not printed; half of the last digit.
        claims.Measured(where='table 1', metric='test/ap', value=row.ap, tolerance=0.5),
        claims.Measured(where='table 1', metric='test/ap50', value=row.ap50, tolerance=0.5),
    )


def arm(name: str, path: str = '', backbone: str = '', epochs: int = 500) -> Experiment:
    """A row of table 1; the rate is cut at four fifths of the epochs."""
    row, steps = ROWS[name], epochs * EPOCH
    train = detection_images.DetectionImages(
        source=source('train', path),
        shape=(LONGEST, LONGEST, 3),
        classes=80,
        max_objects=100,
        batch=BATCH,
        transforms=AUGMENTATION,
        normalize=IMAGENET,
        fields_of=FILES if path else TFDS,
    )
    test = {'source': source('val', path), 'transforms': (scenes.ResizeShorterSide(sides=(800,), longest=LONGEST),)}
    weights: Initialization | None = None
    if backbone:  # All of a classifier but its classes.
        weights = finetuning.Weights(path=backbone, without=('classes.*',))
    return Experiment(
        name=f'detr_{name}',
        steps=steps,
        data=train,
        model=row.model,
        objective=detection.Detection(),
        optimizer=optimizers.AdamW(
            schedule=schedules.Stepwise(peak=1e-4, boundaries=(steps * 4 // 5,)),
            weight_decay=1e-4,
            clip_norm=0.1,
            groups=GROUPS,
        ),
        evaluations=(detections.Detections(data=vary(train, test), every_steps=10 * EPOCH),),
        checkpoints=Checkpoints(every_steps=EPOCH),
        initialization=weights,
        workers=16,
        claims=claimed(row, steps),
    )


def experiment(path: str = '', backbone: str = '') -> Experiment:
    return arm('r50', path, backbone)


def sweep(path: str = '', backbone: str = '') -> dict[str, Experiment]:
    """The rows of table 1 whose stages all halve the image, and the 150 epochs of the released model."""
    rows = {name: arm(name, path, backbone) for name in ROWS}
    short = arm('r50', path, backbone, epochs=150)
    measured = claims.Measured(where='released code', metric='test/ap', value=39.5, tolerance=0.5)
    kept = tuple(each for each in short.claims if not isinstance(each, claims.Measured))
    return {**rows, 'r50_150_epochs': vary(short, {'name': 'detr_r50_150', 'claims': (*kept, measured)})}


def smoke() -> Experiment:
    """Seconds: drawn scenes, a ResNet with two narrow stages, and 5 queries."""
    data = {
        'source': digit_scenes.DigitScenes(count=24, objects=(0, 3), size=(40, 48), heights=(12, 20)),
        'shape': (64, 64, 3),
        'classes': 10,
        'max_objects': 4,
        'batch': 4,
        'fields_of': detection_images.ObjectFields(),
        'transforms': (scenes.FlipScene(), scenes.ResizeShorterSide(sides=(40, 48), longest=64)),
    }
    test = {**data, 'transforms': (scenes.ResizeShorterSide(sides=(48,), longest=64),)}
    tiny = {
        'name': 'detr_smoke',
        'mesh': sharding.MeshShape(data=1),
        **{f'data.{path}': value for path, value in data.items()},
        **{f'evaluations.0.data.{path}': value for path, value in test.items()},
        'evaluations.0.every_steps': 4,
        'evaluations.0.shown': 2,
        'model.backbone.stem.filters.channels': 4,
        'model.backbone.depths': (1, 1),
        'model.backbone.channels': (8, 16),
        'model.classes': 10,
        'model.width': 16,
        'model.encoder_layers': 2,
        'model.decoder_layers': 2,
        'model.block.mixer.heads': 2,
        'model.block.ffn.hidden': 16,
        'model.queries.count': 5,
        'optimizer.schedule.boundaries': (3,),
        'steps': 4,
        'checkpoints.every_steps': 4,
        'workers': 1,
        'watch.log_every': 2,
        'claims': (),
    }
    return vary(arm('r50'), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
