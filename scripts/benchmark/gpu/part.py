"""One part of the benchmark, in this process: `python part.py PART [MODEL] --to FILE [--dry]`; writes its JSON."""

import argparse
import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

Found = dict[str, Any]


def machine(size: str | None, dry: bool) -> Found:
    """Devices and versions."""
    import jax

    device = jax.devices()[0]
    if not dry and device.platform != 'gpu':
        raise SystemExit(f'JAX sees {device.device_kind}, not a GPU: install jax[cuda13], or try with --dry.')
    packages = ('jax', 'jaxlib', 'jax-cuda13-plugin', 'flax', 'optax', 'orbax-checkpoint', 'torch', 'nvidia-cudnn-cu13')
    installed = {each: version(each) for each in packages}
    found: Found = {'device': device.device_kind, 'count': jax.device_count(), 'packages': installed}
    return found | ({} if dry else {'driver': driver()})


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def driver() -> str:
    query = ['nvidia-smi', '--query-gpu=driver_version,memory.total', '--format=csv,noheader']
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def attention(size: str | None, dry: bool) -> Found:
    import agreement

    return agreement.attention(dry)


def models(size: str | None, dry: bool) -> Found:
    import agreement

    return agreement.models()


def repeat(size: str | None, dry: bool) -> Found:
    import agreement

    return agreement.repeat(dry)


def ours(size: str | None, dry: bool) -> Found:
    import speed

    return speed.training(str(size), dry)


def torch(size: str | None, dry: bool) -> Found:
    if importlib.util.find_spec('torch') is None:
        return {'left out': 'PyTorch is not installed'}
    import pytorch

    return pytorch.training(str(size), dry)


def decode(size: str | None, dry: bool) -> Found:
    import speed

    return speed.decode(dry)


def checkpoint(size: str | None, dry: bool) -> Found:
    import speed

    return speed.checkpoint(dry)


def seeds(size: str | None, dry: bool) -> Found:
    import speed

    return speed.seeds(dry)


def lowering(size: str | None, dry: bool) -> Found:
    import lowering as lowered

    return lowered.for_cuda()


FUNCTIONS: tuple[Callable[[str | None, bool], Found], ...] = (
    machine, attention, models, repeat, ours, torch, decode, checkpoint, seeds, lowering,
)  # fmt: skip


def main() -> None:
    functions = {each.__name__: each for each in FUNCTIONS}
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('part', choices=functions)
    parser.add_argument('model', nargs='?')
    parser.add_argument('--to', type=pathlib.Path, required=True)
    parser.add_argument('--dry', action='store_true')
    options = parser.parse_args()
    found = functions[options.part](options.model, options.dry)
    options.to.write_text(json.dumps(found))


if __name__ == '__main__':
    main()
