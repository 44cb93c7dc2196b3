"""A small UNet as diffusers computes it, for tests/oracles/unet.npz.

Needs the diffusers and torch packages, which the tests do not:

  python tests/interop/reference_diffusers.py tests/oracles/unet.npz

Weights follow from the names of the tensors (hashed.py), so that the file holds the config.json, the shapes, the
inputs, the outputs in float64, and two numbers for each gradient of the mean squared error in float64.
"""

import contextlib
import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import hashed
import numpy as np

VALUES = {
    'in_channels': 1, 'out_channels': 1, 'layers_per_block': 1, 'block_out_channels': [8, 12],
    'down_block_types': ['DownBlock2D', 'AttnDownBlock2D'],
    'up_block_types': ['AttnUpBlock2D', 'UpBlock2D'],
    'downsample_padding': 0, 'flip_sin_to_cos': False, 'freq_shift': 1, 'norm_eps': 1e-6, 'norm_num_groups': 4,
    'attention_head_dim': 6, 'act_fn': 'silu',
}  # fmt: skip
INPUTS = {
    'sample': hashed.uniform('sample', (2, 1, 8, 12)),
    'timestep': np.array([3, 871]),
    'noise': hashed.uniform('noise', (2, 1, 8, 12)),
}


def recorded() -> dict[str, np.ndarray]:
    """All arrays of the file."""
    torch, diffusers = (importlib.import_module(name) for name in ('torch', 'diffusers'))
    model = diffusers.UNet2DModel(**VALUES)
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    drawn = {key: torch.from_numpy(array) for key, array in hashed.weights(shapes).items()}
    model.load_state_dict(drawn)
    given = {name: torch.from_numpy(array) for name, array in INPUTS.items()}
    with torch.no_grad():
        single = model(given['sample'], given['timestep']).sample.numpy()
    model = model.double()
    with _float64(torch):
        sample = model(given['sample'].double(), given['timestep']).sample
        loss = torch.nn.functional.mse_loss(sample, given['noise'].double())
        loss.backward()
    exact = sample.detach().numpy()
    gradients = {key: parameter.grad.numpy() for key, parameter in model.named_parameters()}
    found = {f'in/{name}': array for name, array in INPUTS.items()}
    found |= {'out64/sample': exact, 'out64/loss': loss.detach().numpy()}
    found |= {
        'tolerance/float32': np.array(20 * np.abs(single - exact).max()),
        'tolerance/float64': np.array(1e-9 * max(np.abs(exact).max(), 1.0)),
        'gradients': np.stack([hashed.probe(key, gradients[key]) for key in shapes]),
    }
    meta = {'config': {'_class_name': 'UNet2DModel', **VALUES}, 'shapes': shapes}
    return found | {'meta': np.frombuffer(json.dumps(meta).encode(), np.uint8)}


@contextlib.contextmanager
def _float64(torch: Any) -> Iterator[None]:
    """Nothing is rounded to float32, as the library does with timesteps."""
    arange, single = torch.arange, torch.Tensor.float

    def wide(*args: Any, dtype: Any = None, **how: Any) -> Any:
        return arange(*args, dtype=torch.float64 if dtype is torch.float32 else dtype, **how)

    torch.arange, torch.Tensor.float = wide, torch.Tensor.double
    try:
        yield
    finally:
        torch.arange, torch.Tensor.float = arange, single


if __name__ == '__main__':
    np.savez_compressed(sys.argv[1], **recorded())
