"""CLIP on emoji and their names in two languages: which picture does a caption belong to that was never seen?

Question: does a contrastive model that is trained from scratch on 3,256 emoji find pictures of others by their names?
Source:   Radford et al. (2021), arXiv:2103.00020, with towers of a few layers; pictures of Twemoji, names of CLDR.
Target:   none published for this data; recall at 1 at least 20 times that of a guess among all 530 emoji held out, from
          captions to pictures, in English and in German. The skin tones of an emoji are never on both sides.
Reached:  captions to pictures 19.2% in English (95%: 16.1 to 22.8) and 20.6% in German (17.3 to 24.2), pictures to
          captions 20.0% and 19.2%; a guess finds 0.19%, so about 100 times that. One run, seed 0, after its last step.
Data:     npm pack emoji-datasource-twitter@16.0.0 emojibase-data@17.0.0, each unpacked with tar into a folder.
Run:      python -m bigmodel_jax train experiments/emoji_clip.py --arg pictures=data/emoji-datasource-twitter
            --arg texts=data/emojibase-data --workdir runs/emoji_clip
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.vision import augmentations, captioned, drawn, emoji, transforms
from bigmodel_jax.evaluate.vision import retrieval
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models.multimodal import clip
from bigmodel_jax.objectives import contrastive
from bigmodel_jax.optim import optimizers, schedules

SIDE, LENGTH, VOCAB = 32, 24, 2_000
TRAIN, TEST = splits.by_group('group', shares=(0.85, 0.15))
SCALED = transforms.Normalize(mean=(0.5,), deviation=(0.5,))


def model(vocab: int = VOCAB) -> clip.Clip:
    """Towers of 3 and 2 layers of width 96."""
    vision = clip.vision_tower(patch=8, width=96, layers=3, heads=3, image=SIDE)
    text = clip.text_tower(width=96, layers=2, heads=3, vocab=vocab, length=LENGTH)
    return clip.clip(vision=vision, text=text, embed=96)


def experiment(
    pictures: str = 'data/emoji-datasource-twitter', texts: str = 'data/emojibase-data', languages: str = 'en,de'
) -> Experiment:
    """One model of both languages: each time that a picture is seen, a caption is drawn from all that it has."""
    names = tuple(languages.split(','))
    source = emoji.EmojiPackages(pictures=pictures, texts=texts, languages=names, part=TRAIN)
    spoken = sources.Joined(parts=tuple(sources.TextField(source=source, field=name) for name in names))
    middle = transforms.OnBackground(), transforms.Resize(size=(SIDE, SIDE)), SCALED
    crops = augmentations.RandomResizedCrop(size=(SIDE, SIDE), area=(0.6, 1.0), proportions=(0.8, 1.25))
    train = captioned.Captioned(
        source=source,
        shape=(SIDE, SIDE, 3),
        tokenizer=tokenizers.Bpe(vocab=VOCAB, trained_on=spoken),
        length=LENGTH,
        batch=128,
        transforms=(transforms.OnBackground(), crops, SCALED),
        captions=tuple(f'{name}_variants' for name in names),
        too_long='cut',
    )
    held_out = {
        name: vary(train, {'source.part': TEST, 'captions': (name,), 'transforms': middle}) for name in names
    }
    return Experiment(
        name='emoji_clip',
        steps=1_000,
        data=train,
        model=model(),
        objective=contrastive.InfoNce(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=1.5e-3, warmup_steps=100), b2=0.98, weight_decay=0.2, clip_norm=1.0
        ),
        evaluations=tuple(
            retrieval.Retrieval(data=data, every_steps=500, name=name) for name, data in held_out.items()
        ),
        checkpoints=Checkpoints(every_steps=100),
        workers=2,
    )


def smoke() -> Experiment:
    """Seconds, on shapes that are drawn, with one caption each: shows that the pieces fit."""
    side, source = 16, drawn.CaptionedShapes(count=64)
    spoken = sources.TextField(source=source, field='caption')
    train = captioned.Captioned(
        source=source,
        shape=(side, side, 3),
        tokenizer=tokenizers.Characters(trained_on=spoken),
        length=24,
        batch=16,
        transforms=(SCALED,),
    )
    test = vary(train, {'source': drawn.CaptionedShapes(count=32, first=1_000)})
    tower = {'width': 16, 'layers': 1, 'heads': 2}
    small = clip.clip(
        vision=clip.vision_tower(patch=8, image=side, **tower),
        text=clip.text_tower(vocab=32, length=24, **tower),
        embed=8,
    )
    return vary(
        experiment(),
        {
            'name': 'emoji_clip_smoke',
            'data': train,
            'model': small,
            'steps': 20,
            'optimizer.schedule.warmup_steps': 5,
            'evaluations': (retrieval.Retrieval(data=test, every_steps=20, shown=2),),
            'checkpoints.every_steps': 10,
            'workers': 1,
            'watch.log_every': 5,
        },
    )


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
