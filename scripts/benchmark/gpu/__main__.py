"""First light on a GPU: correctness, then speed beside PyTorch, as one command that survives the failure of any part.

    python scripts/benchmark/gpu --out gpu_results [--minutes 8] [--parts attention gpt2_124m ...]
    python scripts/benchmark/gpu --out gpu_dry --dry         # without a GPU: toy sizes, and what is lowered for CUDA

Each part is a process of its own with its own time limit, so that a crash, a full memory or a hang costs that part
alone. The parts come in the order of what is to be known first; those for which no time is left are named as such.
results.json and table.txt are written anew after every part. PyTorch's parts (torch.compile, fused attention and
optimizer, autocast to bfloat16) train the same models on the same shapes in the same call; without PyTorch they are
left out, which is said.

Needs: jax with CUDA and this package; PyTorch for the comparison. Nothing is downloaded.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).parent
LINES_OF_A_FAILURE = 12


class Part(NamedTuple):
    """What runs in a process of its own.

    Attributes:
      seconds: at most.
      flags: added to XLA_FLAGS.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: int
    flags: str = ''


DETERMINISTIC = '--xla_gpu_exclude_nondeterministic_ops=true'
MODELS = ('gpt2_124m', 'gpt2_1558m', 'llama_1b', 'llama_1b_8k', 'char')
PARTS = (
    Part('machine', ('machine',), 30),
    Part('attention', ('attention',), 60),
    Part('models', ('models',), 75),
    Part('repeat', ('repeat',), 45),
    *(Part(f'{name} {side}', (side, name), 75) for name in MODELS[:3] for side in ('ours', 'torch')),
    Part('repeat, deterministic', ('repeat',), 45, DETERMINISTIC),
    Part('decode', ('decode',), 45),
    Part('checkpoint', ('checkpoint',), 45),
    *(Part(f'{name} {side}', (side, name), 60) for name in MODELS[3:] for side in ('ours', 'torch')),
    Part('seeds', ('seeds',), 45),
    Part('gpt2_124m ours, deterministic', ('ours', 'gpt2_124m'), 60, DETERMINISTIC),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog='gpu', description=__doc__.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--out', type=pathlib.Path, required=True, help='a directory for results.json and table.txt')
    parser.add_argument('--minutes', type=float, default=8.0, help='of all parts together (default: 8)')
    parser.add_argument('--parts', nargs='+', metavar='PART', help='only those whose name begins with one of these')
    parser.add_argument('--dry', action='store_true', help='toy sizes on the CPU, and programs lowered for CUDA')
    options = parser.parse_args()
    chosen = [part for part in PARTS if not options.parts or part.name.startswith(tuple(options.parts))]
    if options.dry and not options.parts:
        chosen.append(Part('lowering', ('lowering',), 120))
    if not chosen:
        parser.error(f'no part begins with {" or ".join(options.parts)}; there are: {", ".join(p.name for p in PARTS)}')
    options.out.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + 60 * options.minutes, {}
    for part in chosen:
        results[part.name] = run(part, options, end)
        write(options.out, results)
        print(line(part.name, results[part.name]), flush=True)
    failed = [name for name, found in results.items() if 'failed' in found]
    print(f'{options.out / "results.json"}, {options.out / "table.txt"}')
    sys.exit(f'Failed: {", ".join(failed)}.' if failed else 0)


def run(part: Part, options: argparse.Namespace, end: float) -> dict[str, Any]:
    """What a part found; or, under 'failed' or 'left out', why it found nothing."""
    limit = min(part.seconds * (4 if options.dry else 1), end - time.monotonic())  # A CPU is slower.
    if limit < 5:
        return {'left out': 'no time was left'}
    found, log = (options.out / f'{part.name.replace(" ", "_")}.{ending}' for ending in ('json', 'log'))
    found.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / 'part.py'), *part.arguments, '--to', str(found), *['--dry'] * options.dry]
    environment = {**os.environ, 'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {part.flags}'.strip()}
    if options.dry:
        environment |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': os.environ.get('XLA_FLAGS', '')}
    began = time.monotonic()
    with log.open('w') as file:
        try:
            status = subprocess.run(command, stdout=file, stderr=file, timeout=limit, env=environment).returncode
        except subprocess.TimeoutExpired:
            status = None
    took = {'seconds': round(time.monotonic() - began, 1)}
    if status == 0:
        return json.loads(found.read_text()) | took
    last = log.read_text(errors='replace').splitlines()[-LINES_OF_A_FAILURE:]
    reason = f'stopped after {limit:.0f} s' if status is None else f'status {status}'
    return {'failed': reason, 'last lines': last} | took


def write(out: pathlib.Path, results: dict[str, Any]) -> None:
    (out / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    lines = [line(name, found) for name, found in results.items()]
    (out / 'table.txt').write_text('\n'.join([*lines, *ratios(results)]) + '\n')


def line(name: str, found: dict[str, Any]) -> str:
    shown = ', '.join(f'{key} {_text(value)}' for key, value in found.items() if key != 'last lines')
    return f'{name:32} {shown}'


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:,.4g}' if abs(value) < 1e4 else f'{value:,.0f}'
    return ' '.join(f'{key}={_text(each)}' for key, each in value.items()) if isinstance(value, dict) else str(value)


def ratios(results: dict[str, Any]) -> Iterator[str]:
    """Tokens per second of ours over PyTorch's, of each model that both have trained."""
    for name in MODELS:
        ours, theirs = (results.get(f'{name} {side}', {}).get('tokens_per_s') for side in ('ours', 'torch'))
        if ours and theirs:
            yield f'{name}: {ours / theirs:.3f} times the tokens per second of torch.compile'


if __name__ == '__main__':
    main()
