"""One training step of a DiT here and of diffusers' in PyTorch eager, side by side on this machine's CPU.

    python scripts/benchmark/dit_step_time.py [--rounds 10] [--only jax] [--cores 1]

Images of 32 x 32 pixels and ten classes, in batches of 32, in float32; patches of 4 x 4, width 192, 8 layers, 3 heads.
Theirs is DiTTransformer2DModel as it comes, with an embedding of time and class in each block; ours has them too. Both
sides have as many parameters, which is checked, draw noise and steps anew each time, drop a tenth of the labels, and
train with AdamW on the mean square error of the noise. See step_time.py for how they take turns.

On one core of an AMD EPYC (Zen 4) that other programs used too, jax 0.10.2, torch 2.13 and diffusers 0.42.1, least
processor time of a step in 12 rounds of two steps, ms:

    torch                       699
    jax, scanned                731  1.05
    jax, scanned, all_dots      745  1.07
    jax                         749  1.07

In a call of 2 rounds before, torch 731 and jax 756 (1.03): the differences between ours are within the noise.

Why it stays above: in a trace of 'jax' 70% of the time of all operations are products of matrices, those of attention
among them; PyTorch's profiler counts 66% for products and 7% for attention. But 13% of ours are transposed copies of an
activation for the gradient of a weight (see step_time.py) and 3% copies around attention, where 3% of PyTorch's are
copies. Elementwise operations and sums, which XLA fuses, take 14% of our time and the rest of PyTorch's, 24%.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import image_step_time
import step_time

from bigmodel_jax.data.vision import drawn, images
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import stacks
from bigmodel_jax.models.diffusion import dit
from bigmodel_jax.objectives.diffusion import diffusion, noise_schedules
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

BATCH, SIDE, CLASSES = image_step_time.BATCH, image_step_time.SIDE, image_step_time.CLASSES
PATCH, WIDTH, LAYERS, HEADS, RATE, LABEL_DROPOUT = 4, 192, 8, 3, 1e-4, 0.1
SHAPE = (SIDE, SIDE, 3)
SCHEDULE = noise_schedules.Linear()


def our_experiment(stack: stacks.Stack) -> Experiment:
    source = drawn.Gratings(count=BATCH, shape=SHAPE, classes=CLASSES)
    of_diffusers = {'condition': dit.Condition(inclusive=True, of_each_block=True), 'variance': False}
    sizes = {'patch': PATCH, 'width': WIDTH, 'layers': LAYERS, 'heads': HEADS}
    return Experiment(
        name='dit_step_time',
        steps=1_000,
        data=images.Images(source=source, shape=SHAPE, classes=CLASSES, batch=BATCH),
        model=dit.dit(**sizes, image=SHAPE, classes=CLASSES, stack=stack, **of_diffusers),
        objective=diffusion.Diffusion(schedule=SCHEDULE, label_dropout=LABEL_DROPOUT),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=RATE)),
        mesh=sharding.MeshShape(data=1),
    )


def our_step(stack: stacks.Stack) -> step_time.Step:
    image_BYXZ, labels_B = image_step_time.random_images()
    return step_time.step_of(our_experiment(stack), {'image': image_BYXZ, 'labels': labels_B})


def their_model() -> Any:
    """[B, Z, Y, X], steps [B] and classes [B] -> noise [B, Z, Y, X]. It drops a tenth of the labels by itself."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=SHAPE[-1],
        num_layers=LAYERS,
        sample_size=SIDE,
        patch_size=PATCH,
        num_embeds_ada_norm=CLASSES,
        norm_eps=dit.EPSILON,
    )


def their_step() -> step_time.Step:
    import torch

    image_BYXZ, labels = image_step_time.random_images()
    image_BZYX, labels_B = (
        torch.from_numpy(image_BYXZ).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels).long(),
    )
    model = their_model().train()
    assert model.transformer_blocks[0].norm1.emb.class_embedder.dropout_prob == LABEL_DROPOUT
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    signal = torch.from_numpy(SCHEDULE.tables().signal).float()

    def run() -> None:
        steps_B, noise_BZYX = torch.randint(SCHEDULE.steps, (BATCH,)), torch.randn_like(image_BZYX)
        signal_B111 = signal[steps_B][:, None, None, None]
        noised_BZYX = signal_B111.sqrt() * image_BZYX + (1 - signal_B111).sqrt() * noise_BZYX
        predicted_BZYX = model(noised_BZYX, timestep=steps_B, class_labels=labels_B).sample
        loss = torch.nn.functional.mse_loss(predicted_BZYX, noise_BZYX)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return run


SIDES: Mapping[str, Callable[[], step_time.Step]] = {
    'torch': their_step,
    'jax': functools.partial(our_step, stacks.Stack(scan=False)),
    'jax, scanned': functools.partial(our_step, stacks.Stack()),
    'jax, scanned, all_dots': functools.partial(our_step, stacks.Stack(remat='all_dots')),
}


def main() -> None:
    options = step_time.arguments(__doc__, ['dit'], SIDES, needs=('torch', 'diffusers'))
    if 'torch' in options.sides:
        image_step_time.check_sizes(our_experiment(stacks.Stack()), their_model())
    makers = {side: SIDES[side] for side in options.sides}
    step_time.compare('dit', makers, rounds=options.rounds, turn_steps=2)


if __name__ == '__main__':
    main()
