"""DiT as published: the twelve sizes, on latents of ImageNet at 256 x 256 pixels.

Question: are these the paper's models and recipe, number by number?
Source:   Peebles and Xie (2022), arXiv:2212.09748: sizes in table 1, recipe in section 4, results in table 4 (FID-50K
          after 400,000 steps, without guidance); what the paper leaves open is as in its released code. Its "Gflops"
          are multiplications with an addition each, and its counts of parameters leave out the fixed positions.
Target:   FID-50K 19.47 with XL/2 after 400,000 steps, and 2.27 after 7 million with a guidance of 1.5. Those are
          distances in the features of Inception, which cannot be shipped.
Data:     latents of the Stable Diffusion autoencoder (32 x 32 x 4, times 0.18215), prepared once with its weights, in
          an .npz with 'image' [n, 32, 32, 4] float32 and 'label' [n].
Run:      python -m bigmodel_jax train experiments/dit2022.py --arg latents=latents.npz --workdir gs://BUCKET/dit
          ... experiments/dit2022.py:sweep/S8 ...: a model of another size
Check:    python -m bigmodel_jax check experiments/dit2022.py
          python -m bigmodel_jax plan experiments/dit2022.py --topology v5e:16x16
          python -m bigmodel_jax train experiments/dit2022.py:smoke --workdir /tmp/dit_smoke
"""

from typing import NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.vision import drawn, images, transforms
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.diffusion import image_samples, samplers
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import stacks
from bigmodel_jax.models.diffusion import dit
from bigmodel_jax.objectives.diffusion import diffusion, variances
from bigmodel_jax.optim import ema, optimizers, schedules

FID = 'its features are those of Inception, whose weights are not here; evaluate/vision measures with others'
# The autoencoder's latents are scaled already; the factor is a part of the file.
LATENTS = transforms.Normalize(divisor=1.0)
# Of the samples that the paper shows: the guidance acts on 3 of the 4 channels, as in its released code.
GUIDED = samplers.Guidance(scale=4.0, channels=3)


class Row(NamedTuple):
    """A row of table 4."""

    model: dit.Dit
    parameters: int
    printed: str
    layers: int
    width: int
    heads: int
    distance: float  # FID-50K after 400,000 steps.


ROWS = {
    'S8': Row(dit.DIT_S8, 33_142_016, '33M', 12, 384, 6, 153.60),
    'S4': Row(dit.DIT_S4, 32_920_448, '33M', 12, 384, 6, 100.41),
    'S2': Row(dit.DIT_S2, 32_865_056, '33M', 12, 384, 6, 68.40),
    'B8': Row(dit.DIT_B8, 130_869_248, '131M', 12, 768, 12, 122.74),
    'B4': Row(dit.DIT_B4, 130_426_496, '130M', 12, 768, 12, 68.38),
    'B2': Row(dit.DIT_B2, 130_315_808, '130M', 12, 768, 12, 43.47),
    'L8': Row(dit.DIT_L8, 458_578_432, '459M', 24, 1_024, 16, 118.87),
    'L4': Row(dit.DIT_L4, 457_988_224, '458M', 24, 1_024, 16, 45.64),
    'L2': Row(dit.DIT_L2, 457_840_672, '458M', 24, 1_024, 16, 23.33),
    'XL8': Row(dit.DIT_XL8, 675_664_640, '676M', 28, 1_152, 16, 106.41),
    'XL4': Row(dit.DIT_XL4, 675_000_704, '675M', 28, 1_152, 16, 43.01),
    'XL2': Row(dit.DIT_XL2, 674_834_720, '675M', 28, 1_152, 16, 19.47),
}


def claims_of(row: Row) -> tuple[claims.Claim, ...]:
    """What the paper says of a size, and of the recipe."""
    settings = {
        'model.layers': row.layers,
        'model.width': row.width,
        'model.block.mixer.heads': row.heads,
        'data.batch': 256,
        'optimizer.schedule.peak': 1e-4,
        'optimizer.weight_decay': 0.0,
        'ema.decay': 0.9999,
        'objective.schedule.steps': 1_000,
        'objective.schedule.last': 0.02,
    }
    return (
        claims.Parameters(where='table 4', value=row.parameters, printed=row.printed),
        *(claims.Setting(where='table 1', path=path, value=value) for path, value in [*settings.items()][:3]),
        *(claims.Setting(where='section 4', path=path, value=value) for path, value in [*settings.items()][3:]),
        claims.Measured(where='table 4', metric='generation/frechet', value=row.distance, tolerance=1.0, missing=FID),
    )


def pretrain(name: str, latents: str = 'latents.npz', test: str = 'latents_test.npz') -> Experiment:
    """Section 4: AdamW at a constant 1e-4 without weight decay or warm-up, and a batch of 256."""
    row = ROWS[name]
    train, held_out = (
        images.Images(
            source=sources.Npz(path=file),
            shape=(32, 32, 4),
            classes=1_000,
            batch=256,
            transforms=(LATENTS,),
        )
        for file in (latents, test)
    )
    return Experiment(
        name=name,
        steps=400_000,
        data=train,
        model=row.model,
        objective=diffusion.Diffusion(variance=variances.PredictedVariance(), label_dropout=0.1),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-4), weight_decay=0.0),
        ema=ema.Ema(decay=0.9999, warmup=False),
        evaluations=(
            loss.Loss(data=held_out, every_steps=10_000, max_batches=40),
            image_samples.ImageSamples(
                sampler=samplers.Ddpm(steps=250, clip=None, guidance=GUIDED), every_steps=50_000, rows=8
            ),
        ),
        checkpoints=Checkpoints(every_steps=5_000),
        workers=8,
        claims=claims_of(row),
    )


def experiment(latents: str = 'latents.npz', test: str = 'latents_test.npz') -> Experiment:
    return vary(pretrain('XL2', latents, test), {'name': 'dit2022'})


def pod(latents: str = 'latents.npz', test: str = 'latents_test.npz') -> Experiment:
    """XL/2 on 256 chips, one image on each: bfloat16, and the weights spread over 16 of them."""
    spread = {'model.dtype': 'bfloat16', 'mesh.data': 16, 'mesh.fsdp': 16}
    kept = {'model.stack': stacks.Stack(remat='attention')}
    return vary(experiment(latents, test), {'name': 'dit2022_pod', **spread, **kept})


def sweep() -> dict[str, Experiment]:
    """The rows of table 4."""
    return {name: pretrain(name) for name in ROWS}


def smoke() -> Experiment:
    """Seconds: stripes of 8 x 8 pixels of 3 channels, and one layer."""
    source = drawn.Gratings(count=64, shape=(8, 8, 3), classes=3)
    data = {'source': source, 'shape': (8, 8, 3), 'classes': 3, 'batch': 16, 'transforms': (transforms.Normalize(),)}
    tiny = {
        'name': 'dit_smoke',
        **{f'data.{path}': value for path, value in data.items()},
        **{f'evaluations.0.data.{path}': value for path, value in data.items()},
        'model': dit.dit(patch=4, width=16, layers=1, heads=2, image=(8, 8, 3), classes=3),
        'steps': 6,
        'evaluations.0.every_steps': 3,
        'evaluations.1.every_steps': 6,
        'evaluations.1.columns': 4,
        'evaluations.1.sampler.steps': 3,
        'checkpoints.every_steps': 6,
        'workers': 1,
        'watch.log_every': 2,
        'claims': (),
    }
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
