"""One training step of ResNet-18 and of ViT-Ti here and in PyTorch eager, side by side on this machine's CPU.

    python scripts/benchmark/image_step_time.py [--models resnet18 vit_ti] [--rounds 10] [--only jax] [--cores 1]

Images of 32 x 32 pixels and ten classes, in batches of 32, in float32. ResNet-18 begins with a convolution of 3 x 3 and
no pool, as is usual for such images; ViT-Ti (width 192, 12 layers, 3 heads) reads patches of 4 x 4. Both sides have as
many parameters, which is checked, and train with momentum, weight decay and cross-entropy. See step_time.py for how
they take turns.

On one core of an AMD EPYC (Zen 4) that other programs used too, jax 0.10.2 and torch 2.13, least processor time of a
step, ms; the sides of ResNet-18 took turns, six times, those of ViT-Ti were measured minutes apart:

                torch     jax
    vit_ti      1,017   1,222  1.20    (layers scanned, remat='all_dots': 1,313)
    resnet18    1,061   1,304  1.23

Of ResNet-18, the gradients of the convolutions are computed as layers/convolution.py says; as XLA:CPU has them within
repeated layers, a step took over 20 s. Alone, the convolutions of the first stage (2.4 GFLOP) take 26 ms forward, 26 ms
for the gradient of the image and 43 ms for that of the kernel; PyTorch spends 63% of its step in the gradients of
convolutions and 25% in the convolutions. No trace of the present step was read.

Why ViT-Ti stays above: by a trace 67% of our time, 820 ms, are the products of matrices; PyTorch's products take 757
ms, and with its attention 855 ms. So the products cost the same; but XLA:CPU makes a transposed copy of an activation
for each gradient of a weight (18%, 218 ms; see step_time.py), where PyTorch's library reads it as it lies, and the sum
of the residual stream's gradients is computed again for the patches (3%).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import step_time

from bigmodel_jax.config import vary
from bigmodel_jax.data.vision import drawn, images
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import convolution, stacks
from bigmodel_jax.models import model, resnet, vit
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

BATCH, SIDE, CLASSES, RATE, MOMENTUM, DECAY = 32, 32, 10, 0.1, 0.9, 5e-4
STEM = resnet.Stem(filters=convolution.Convolution(channels=64))
OURS: dict[str, model.Model] = {
    'resnet18': vary(resnet.RESNET_18, {'stem': STEM, 'classes': CLASSES}),
    'vit_ti': vit.vit(
        patch=4, width=192, layers=12, heads=3, image=SIDE, classes=CLASSES, stack=stacks.Stack(scan=False)
    ),
}


def our_experiment(name: str) -> Experiment:
    source = drawn.Gratings(count=BATCH, shape=(SIDE, SIDE, 3), classes=CLASSES)
    return Experiment(
        name='image_step_time',
        steps=1_000,
        data=images.Images(source=source, shape=(SIDE, SIDE, 3), classes=CLASSES, batch=BATCH),
        model=OURS[name],
        objective=classification.Classification(),
        optimizer=optimizers.Sgd(schedule=schedules.Constant(peak=RATE), momentum=MOMENTUM, weight_decay=DECAY),
        mesh=sharding.MeshShape(data=1),
    )


def random_images() -> tuple[np.ndarray, np.ndarray]:
    """[B, Y, X, Z] float32, and labels [B] int32."""
    draws = np.random.default_rng(0)
    return (
        draws.standard_normal((BATCH, SIDE, SIDE, 3)).astype(np.float32),
        draws.integers(0, CLASSES, BATCH).astype(np.int32),
    )


def our_step(name: str) -> step_time.Step:
    image_BYXZ, labels_B = random_images()
    return step_time.step_of(our_experiment(name), {'image': image_BYXZ, 'labels': labels_B})


# ---- PyTorch's --------------------------------------------------------------------------------------------------


def torch_resnet() -> Any:
    """[B, Z, Y, X] -> [B, V]."""
    import torch
    from torch import nn

    def convolution_of(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
        layer = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(after))

    class Basic(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.first, self.second = convolution_of(before, after, 3, stride), convolution_of(after, after, 3, 1)
            same = stride == 1 and before == after
            self.shortcut = nn.Identity() if same else convolution_of(before, after, 1, stride)

        def forward(self, x_BZYX: torch.Tensor) -> torch.Tensor:
            y_BZYX = self.second(torch.relu(self.first(x_BZYX)))
            return torch.relu(y_BZYX + self.shortcut(x_BZYX))

    layers, before = [convolution_of(3, 64, 3, 1), nn.ReLU()], 64
    for number, after in enumerate(resnet.NARROW):
        layers += [Basic(before, after, 1 if number == 0 else 2), Basic(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))


def torch_vit() -> Any:
    """[B, Z, Y, X] -> [B, V]."""
    import torch
    from torch import nn
    from torch.nn import functional

    D, heads, patch = 192, 3, 4

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention_norm, self.ffn_norm = nn.LayerNorm(D, eps=1e-6), nn.LayerNorm(D, eps=1e-6)
            self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
            self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

        def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
            B, T, _ = x_BTD.shape
            parts = self.qkv(self.attention_norm(x_BTD)).split(D, 2)
            q_BHTK, k_BHTK, v_BHTK = (part.view(B, T, heads, -1).transpose(1, 2) for part in parts)
            y_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK)
            x_BTD = x_BTD + self.out(y_BHTK.transpose(1, 2).reshape(B, T, D))
            return x_BTD + self.down(functional.gelu(self.up(self.ffn_norm(x_BTD))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, D, patch, patch)
            self.token = nn.Parameter(torch.zeros(1, 1, D))
            self.positions = nn.Parameter(torch.randn(1, (SIDE // patch) ** 2 + 1, D) * 0.02)
            self.blocks = nn.Sequential(*[Block() for _ in range(12)])
            self.norm, self.classes = nn.LayerNorm(D, eps=1e-6), nn.Linear(D, CLASSES)

        def forward(self, x_BZYX: torch.Tensor) -> torch.Tensor:
            patches_BTD = self.patches(x_BZYX).flatten(2).transpose(1, 2)
            x_BTD = torch.cat([self.token.expand(len(x_BZYX), -1, -1), patches_BTD], 1) + self.positions
            return self.classes(self.norm(self.blocks(x_BTD))[:, 0])

    return Model()


THEIRS: dict[str, Callable[[], Any]] = {'resnet18': torch_resnet, 'vit_ti': torch_vit}


def torch_step(name: str) -> step_time.Step:
    import torch

    image_BYXZ, labels_B = random_images()
    image = torch.from_numpy(image_BYXZ).permute(0, 3, 1, 2)
    image_BZYX = image.contiguous(memory_format=torch.channels_last if name == 'resnet18' else torch.contiguous_format)
    labels, module = torch.from_numpy(labels_B).long(), THEIRS[name]()
    optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def run() -> None:
        loss = torch.nn.functional.cross_entropy(module(image_BZYX), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def check_sizes(experiment: Experiment, module: Any) -> None:
    """Raises AssertionError if the model of the experiment does not have as many parameters as PyTorch's."""
    import jax

    from bigmodel_jax.train import state

    place = experiment.mesh.build()
    with sharding.use(place):
        ours = sum(leaf.size for leaf in jax.tree.leaves(state.specify(experiment, place).abstract.params))
    theirs = sum(each.numel() for each in module.parameters())
    assert ours == theirs, (ours, theirs)


SIDES: Mapping[str, Callable[[str], step_time.Step]] = {'torch': torch_step, 'jax': our_step}


def main() -> None:
    options = step_time.arguments(__doc__, OURS, SIDES)
    for name in options.models:
        if 'torch' in options.sides:
            check_sizes(our_experiment(name), THEIRS[name]())
        makers = {side: functools.partial(SIDES[side], name) for side in options.sides}
        step_time.compare(name, makers, rounds=options.rounds, turn_steps=2)


if __name__ == '__main__':
    main()
