"""CLIP as published: four sizes of ViT, trained on pairs of images and captions in batches of 32,768.

Question: are these the paper's models and recipe, number by number?
Source:   Radford et al. (2021), arXiv:2103.00020.
Target:   zero-shot accuracy on ImageNet 63.2 for B/32, 68.6 for B/16 and 76.2 for L/14 at 336 pixels (table 11); the
          400 million pairs that they were trained on were never released.
Data:     a table (or lines of JSON) with a `path` and a `caption` for each image, and a folder of PNG or JPEG files; a
          tokenizer.json of CLIP, as in any directory of Hugging Face; TFDS imagenet2012 and the names of its classes,
          one a line.
Run:      python -m bigmodel_jax train experiments/clip2021.py --arg pairs=pairs.csv --arg folder=images
            --arg tokenizer=clip-vit-base-patch32 --workdir gs://BUCKET/clip
          ... experiments/clip2021.py:coco ...: on TFDS coco_captions, with retrieval among its validation images
          ... experiments/clip2021.py:at_336 --arg pretrained=gs://BUCKET/clip_l14 ...: the last epoch of L/14@336
Check:    python -m bigmodel_jax check experiments/clip2021.py
          python -m bigmodel_jax train experiments/clip2021.py:smoke --workdir /tmp/clip_smoke
"""

from typing import Any, NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer
from bigmodel_jax.data.vision import augmentations, captioned, drawn, image_files, images, transforms
from bigmodel_jax.evaluate.vision import retrieval, zero_shot
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models.multimodal import clip
from bigmodel_jax.objectives import contrastive
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.train import initial_state

# Of the released code.
SCALED = transforms.Normalize(mean=(0.48145466, 0.4578275, 0.40821073), deviation=(0.26862954, 0.26130258, 0.27577711))
BATCH = 32_768
EPOCH = 400_000_000 // BATCH
UNRELEASED = 'the 400 million pairs on which it was trained were never released'


class Row(NamedTuple):
    """A size of table 20, with the exact count."""

    model: clip.Clip
    parameters: int
    rate: float
    embed: int
    vision: tuple[int, int, int]  # Layers, width, heads.
    text: tuple[int, int, int]
    side: int = 224
    accuracy: float | None = None  # Table 11, ImageNet, in %.


ROWS = {
    'B32': Row(clip.CLIP_B32, 151_277_313, 5e-4, 512, (12, 768, 12), (12, 512, 8), accuracy=63.2),
    'B16': Row(clip.CLIP_B16, 149_620_737, 5e-4, 512, (12, 768, 12), (12, 512, 8), accuracy=68.6),
    'L14': Row(clip.CLIP_L14, 427_616_513, 4e-4, 768, (24, 1_024, 16), (12, 768, 12)),
    'L14_336': Row(clip.CLIP_L14_336, 427_944_193, 2e-5, 768, (24, 1_024, 16), (12, 768, 12), 336, 76.2),
}


def pairs_of(source: records.Source, tokenizer: str, *made: Any, side: int, **changes: Any) -> captioned.Captioned:
    """Images of `side` pixels with captions of CLIP's own tokens."""
    data = captioned.Captioned(
        source=source,
        shape=(side, side, 3),
        tokenizer=pretrained_tokenizer.Pretrained(path=tokenizer, eos='<|endoftext|>', bos='<|startoftext|>'),
        length=77,
        batch=BATCH,
        transforms=(*made, SCALED),
        too_long='cut',
    )
    return vary(data, changes)


def squares(side: int) -> tuple[Any, ...]:
    """A random square of a resized image, the only augmentation (section 2.4)."""
    return augmentations.ResizeShorter(side=side), transforms.RandomCrop(size=(side, side))


def middle(side: int) -> tuple[Any, ...]:
    return augmentations.ResizeShorter(side=side), transforms.CenterCrop(size=(side, side))


def claimed(row: Row) -> tuple[claims.Claim, ...]:
    """What tables 11, 18 and 20 say of a size."""
    found: list[claims.Claim] = [claims.Parameters(where='table 20', value=row.parameters)]
    sizes = {'model.embed': row.embed, 'optimizer.schedule.peak': row.rate}
    for tower, shape in (('vision', row.vision), ('text', row.text)):
        paths = ('layers', 'width', 'block.mixer.heads')
        sizes |= {f'model.{tower}.{path}': value for path, value in zip(paths, shape)}
    recipe = {
        'data.batch': BATCH,
        'model.text.vocab': 49_408,
        'objective.max_scale': 100.0,
        'optimizer.weight_decay': 0.2,
        'optimizer.b1': 0.9,
        'optimizer.b2': 0.98,
        'optimizer.eps': 1e-6,
        'optimizer.schedule.warmup_steps': 2_000,
    }
    found += [claims.Setting(where='table 20', path=path, value=value) for path, value in sizes.items()]
    found += [claims.Setting(where='table 18', path=path, value=value) for path, value in recipe.items()]
    if row.accuracy is not None:
        claim = claims.Measured(
            where='table 11', metric='imagenet/accuracy', value=row.accuracy, tolerance=0.05, missing=UNRELEASED
        )
        found.append(claim)
    return tuple(found)


def pretrain(
    size: str,
    *,
    pairs: str = 'data/pairs.csv',
    folder: str = 'data',
    tokenizer: str = 'data/clip-vit-base-patch32',
    names: str = 'data/imagenet_names.txt',
) -> Experiment:
    """Section 2.5: 32 epochs of Adam with decoupled weight decay, a linear warm-up and a cosine."""
    row = ROWS[size]
    listed = sources.JsonLines(pattern=pairs) if '.jsonl' in pairs else sources.Csv(path=pairs)
    imagenet = images.Images(
        source=sources.Tfds(name='imagenet2012', split='validation'),
        shape=(row.side, row.side, 3),
        classes=1_000,
        batch=4_096,
        transforms=(*middle(row.side), SCALED),
    )
    return Experiment(
        name=size,
        steps=32 * EPOCH,
        data=pairs_of(
            image_files.ImageFiles(listed=listed, folder=folder), tokenizer, *squares(row.side), side=row.side
        ),
        model=vary(row.model, {'dtype': 'bfloat16'}),
        objective=contrastive.InfoNce(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=row.rate, warmup_steps=2_000), b2=0.98, eps=1e-6, weight_decay=0.2
        ),
        evaluations=(
            zero_shot.ZeroShot(
                data=imagenet,
                every_steps=EPOCH,
                names=sources.Lines(path=names),
                templates=zero_shot.IMAGENET_TEMPLATES,
                name='imagenet',
            ),
        ),
        checkpoints=Checkpoints(every_steps=1_000),
        workers=64,
        claims=claimed(row),
    )


def experiment(
    pairs: str = 'data/pairs.csv',
    folder: str = 'data',
    tokenizer: str = 'data/clip-vit-base-patch32',
    names: str = 'data/imagenet_names.txt',
) -> Experiment:
    return vary(pretrain('B32', pairs=pairs, folder=folder, tokenizer=tokenizer, names=names), {'name': 'clip2021'})


def sweep() -> dict[str, Experiment]:
    """The sizes of table 20."""
    return {name: pretrain(name) for name in ROWS}


def at_336(pretrained: str = 'runs/clip_l14', **paths: str) -> Experiment:
    """L/14 for one more epoch at 336 pixels (section 2.5), whose positions are interpolated from those of 224."""
    start = initial_state.FromOtherResolution(
        run=pretrained, before=(16, 16), after=(24, 24), positions='vision.positions.table'
    )
    return vary(pretrain('L14_336', **paths), {'name': 'clip_l14_336', 'steps': EPOCH, 'initialization': start})


def coco(tokenizer: str = 'data/clip-vit-base-patch32') -> Experiment:
    """B/32 on the 82,783 images of COCO's captions, and retrieval among those for validation, each with its five."""
    base, side, captions = experiment(), 224, ('captions.text',)
    train = pairs_of(
        sources.Tfds(name='coco_captions', split='train'), tokenizer, *squares(side), side=side, captions=captions
    )
    source = sources.Tfds(name='coco_captions', split='val[:5000]')
    test = pairs_of(source, tokenizer, *middle(side), side=side, captions=captions, each_caption=True)
    changes = {
        'name': 'clip_coco',
        'steps': 32 * 82_783 // 1_024,
        'data': vary(train, {'batch': 1_024}),
        'evaluations': (retrieval.Retrieval(data=vary(test, {'batch': 1_024}), every_steps=500),),
        'optimizer.schedule.warmup_steps': 500,
        'claims': (),
    }
    return vary(base, changes)


def smoke() -> Experiment:
    """Seconds, on shapes that are drawn: retrieval by captions, and classes by their names."""
    side, source = 16, drawn.CaptionedShapes(count=64)
    train = captioned.Captioned(
        source=source,
        shape=(side, side, 3),
        tokenizer=tokenizers.Bpe(vocab=290, trained_on=sources.TextField(source=source, field='caption')),
        length=32,
        batch=16,
        transforms=(SCALED,),
    )
    other = drawn.CaptionedShapes(count=32, first=1_000)
    names = drawn.captions_of_shapes()
    labelled = images.Images(source=other, shape=(side, side, 3), classes=len(names), batch=16, transforms=(SCALED,))
    tower = {'width': 16, 'layers': 1, 'heads': 2}
    small = clip.clip(
        vision=clip.vision_tower(patch=8, image=side, **tower),
        text=clip.text_tower(vocab=320, length=32, **tower),
        embed=8,
    )
    evaluations = (
        zero_shot.ZeroShot(data=labelled, every_steps=20, names=names, templates=('{}', 'it is {}')),
        retrieval.Retrieval(data=vary(train, {'source': other, 'each_caption': True}), every_steps=20, shown=2),
    )
    tiny = {
        'name': 'clip_smoke',
        'data': train,
        'model': small,
        'steps': 20,
        'optimizer.schedule.warmup_steps': 5,
        'evaluations': evaluations,
        'checkpoints.every_steps': 10,
        'workers': 1,
        'watch.log_every': 5,
        'claims': (),
    }
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
