"""What the server promises, measured on a run of yours, with a server in a process of its own.

  equal   64 requests at once, of mixed lengths and temperatures, a third of them cancelled: every answer equals that
          of the same request alone, and that of the engine offline in another process, bit for bit; and how many
          programs were compiled meanwhile, which should be none
  leak    10,000 short requests: memory, file descriptors and free pages before and after
  fuzz    1,000 requests made by schemathesis from the server's own description: no status of 500 or more
  speed   throughput and latency of 64 requests, for the same prompts as scripts/benchmark/serve_huggingface.py

Needs httpx and openai; fuzz needs schemathesis as well.
Example: python scripts/benchmark/serve.py runs/quickstart --parts equal leak
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jax
import numpy as np
import openai

from bigmodel_jax import verbs
from bigmodel_jax.evaluate.engine import text_engine
from bigmodel_jax.evaluate.engine.text_request import Draw, TextRequest

AT_ONCE = 64
READY = re.compile(r'^(http://\S+)', re.MULTILINE)


@contextlib.contextmanager
def serving(run: str, folder: pathlib.Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of the run; its address and its process."""
    log = folder / 'server.log'
    command = [sys.executable, '-m', 'bigmodel_jax', 'serve', run, '--port', '0', *options]
    with log.open('wb') as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            yield _address(log, process), process
        finally:
            process.terminate()
            process.wait()


def _address(log: pathlib.Path, process: subprocess.Popen[bytes]) -> str:
    """What the server says, as soon as it does."""
    while (found := READY.search(log.read_text())) is None:
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.5)
    return found[1]


def count(url: str, name: str) -> float:
    """A number of /metrics."""
    found = re.search(rf'^bigmodel_jax_{name} (\S+)$', httpx.get(f'{url}/metrics').text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def bodies(length: int, vocab: int) -> list[dict[str, Any]]:
    """Requests of mixed lengths and temperatures; prompts are tokens."""
    rng, found = np.random.default_rng(0), []
    for number in range(AT_ONCE):
        prompt = rng.integers(0, vocab, int(rng.integers(1, length // 2))).tolist()
        body = {'prompt': prompt, 'max_tokens': int(rng.integers(1, length // 3)), 'seed': number, 'logprobs': 3}
        body['temperature'] = (0.0, 0.7, 1.0, 1.3)[number % 4]
        body['top_p'] = (1.0, 1.0, 0.9)[number % 3]
        found.append(body)
    return found


def told(answer: Any) -> tuple[list[int], list[float], str]:
    """What of an answer must be equal."""
    (choice,) = answer.choices
    return choice.logprobs.token_ids, choice.logprobs.token_logprobs, choice.text


async def at_once(client: openai.AsyncOpenAI, model: str, asked: list[dict[str, Any]]) -> list[Any]:
    """The answers of requests that are sent at once, among others that are cancelled while they are generated."""
    extra = [body | {'seed': body['seed'] + 1_000} for body in asked[::2]]
    left = [asyncio.create_task(client.completions.create(model=model, **body)) for body in extra]
    tasks = [asyncio.create_task(client.completions.create(model=model, **body)) for body in asked]
    for number, task in enumerate(left):
        await asyncio.sleep(0.02 * (number % 5))
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return list(await asyncio.gather(*tasks))


def equal(run: str, url: str) -> dict[str, Any]:
    """Whether answers at once are those alone and those offline."""
    trained = verbs.open_run(run).restore()
    model: Any = trained.experiment.model
    client = openai.OpenAI(base_url=f'{url}/v1', api_key='none', max_retries=0)
    (card,) = client.models.list()
    asked = bodies(card.model_dump()['max_model_len'], trained.tokenizer.size)

    async def many() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f'{url}/v1', api_key='none', max_retries=0) as several:
            return await at_once(several, card.id, asked)

    together = [told(each) for each in asyncio.run(many())]
    alone = [told(client.completions.create(model=card.id, **body)) for body in asked]
    weights = text_engine.EngineWeights(model, trained.params, trained.model_state, trained.place)
    engine, requests = text_engine.TextEngine(weights, limits=text_engine.EngineLimits(rows=1)), []
    for body in asked:
        draw = Draw(temperature=body['temperature'], top_p=body['top_p'], seed=body['seed'])
        prompt = np.array(body['prompt'], np.int32)
        told_as = {'tokens': body['max_tokens'], 'end': trained.tokenizer.end}
        requests.append(TextRequest(prompt=prompt, draw=draw, **told_as))
    offline = [engine.complete([each])[0] for each in requests]
    same = [left == right for left, right in zip(together, alone)]
    same_offline = [left[:2] == (right.tokens, right.log_ps) for left, right in zip(together, offline)]
    return {
        'requests at once': len(asked),
        'cancelled among them': len(asked[::2]),
        'tokens': sum(len(each[0]) for each in together),
        'equal to the same alone': sum(same),
        'equal to offline': sum(same_offline),
        'compilations after start': count(url, 'compilations_after_start'),
        'pages in use afterwards': count(url, 'pages') - count(url, 'free_pages'),
    }


def resources(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Memory in MB and open file descriptors of a process; Linux."""
    folder = pathlib.Path(f'/proc/{process.pid}')
    memory = re.search(r'VmRSS:\s+(\d+) kB', (folder / 'status').read_text())
    assert memory is not None
    return {'memory_mb': int(memory[1]) / 1024, 'descriptors': len(list((folder / 'fd').iterdir()))}


async def _short(url: str, requests: int) -> None:
    limit = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=AT_ONCE)) as client:

        async def one(number: int) -> None:
            async with limit:
                body = {'prompt': [number % 50 + 1], 'max_tokens': 1 + number % 4, 'stream': number % 3 == 0}
                answer = await client.post('/v1/completions', json=body)
                assert answer.status_code == 200, answer.text

        await asyncio.gather(*(one(number) for number in range(requests)))


def leak(url: str, process: subprocess.Popen[bytes], requests: int) -> dict[str, Any]:
    """What the server holds after many short requests, beside what it held after the first thousand."""
    asyncio.run(_short(url, 1_000))
    time.sleep(2)
    before, began = resources(process), time.monotonic()
    asyncio.run(_short(url, requests))
    seconds = time.monotonic() - began
    time.sleep(2)
    return {
        'requests': requests,
        'requests per second': round(requests / seconds, 1),
        'after 1,000': before,
        f'after {requests + 1_000:,}': resources(process),
        'pages in use afterwards': count(url, 'pages') - count(url, 'free_pages'),
        'compilations after start': count(url, 'compilations_after_start'),
    }


def fuzz(url: str, requests: int) -> dict[str, Any]:
    """The statuses of requests made from the description; half of them are not as it says."""
    import schemathesis  # pip install schemathesis

    schema, statuses = schemathesis.openapi.from_url(f'{url}/openapi.json'), dict[int, int]()
    operations = [each.ok() for each in schema.get_all_operations()]
    for number in range(10):  # Each time others; hypothesis ends early where there are few.
        for operation in operations if sum(statuses.values()) < requests else ():
            _fuzz_operation(operation, number, -(-requests // len(operations)), statuses)
    assert not [status for status in statuses if status >= 500], statuses
    return {'requests': sum(statuses.values()), 'statuses': dict(sorted(statuses.items()))}


def _fuzz_operation(operation: Any, seed: int, most: int, statuses: dict[int, int]) -> None:
    """Counts the statuses of requests for one operation, first as the description says and then not."""
    import hypothesis
    from schemathesis import GenerationMode

    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if operation.body else [GenerationMode.POSITIVE]
    for mode in modes:

        @hypothesis.settings(
            max_examples=most, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.seed(seed)
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def test(case: Any) -> None:
            status = case.call(timeout=120).status_code
            statuses[status] = statuses.get(status, 0) + 1

        test()


async def _timed(url: str, asked: list[dict[str, Any]]) -> list[tuple[float, float, int]]:
    """Of each request the seconds to its first token, to its last one, and how many there were."""
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=AT_ONCE)) as client:

        async def one(body: dict[str, Any]) -> tuple[float, float, int]:
            began, first, made = time.monotonic(), 0.0, 0
            options = {'stream': True, 'stream_options': {'include_usage': True}}
            async with client.stream('POST', '/v1/completions', json=body | options) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith('data: {'):
                        first = first or time.monotonic() - began
                        made = (json.loads(line[6:]).get('usage') or {}).get('completion_tokens', made)
            return first, time.monotonic() - began, made

        return list(await asyncio.gather(*map(one, asked)))


def speed(url: str, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """Throughput and latency of prompts at once, and of the first of them alone."""
    asked = [{'prompt': prompt, 'max_tokens': tokens, 'seed': i} for i, prompt in enumerate(prompts)]
    found: dict[str, Any] = {}
    for name, some in (('one alone', asked[:1]), (f'{len(asked)} at once', asked)):
        began = time.monotonic()
        timed = asyncio.run(_timed(url, some))
        seconds = time.monotonic() - began
        first, last = np.array([each[0] for each in timed]), np.array([each[1] for each in timed])
        found[name] = {
            'tokens per second': round(sum(each[2] for each in timed) / seconds, 1),
            'seconds to the first token, median and worst': [
                round(float(x), 3) for x in (np.median(first), first.max())
            ],
            'seconds to the last token, median and worst': [round(float(x), 3) for x in (np.median(last), last.max())],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run')
    parser.add_argument('--parts', nargs='+', default=['equal', 'leak', 'fuzz'])
    parser.add_argument('--requests', type=int, default=10_000, help='of leak; of fuzz a tenth')
    parser.add_argument('--prompts', help='of speed: a JSON file with a list of lists of tokens')
    parser.add_argument('--tokens', type=int, default=64, help='of speed')
    parser.add_argument('--rows', type=int, default=64)
    parser.add_argument('--folder', type=pathlib.Path, default=pathlib.Path('.'), help="for the server's log")
    options = parser.parse_args()
    print(f'jax {jax.__version__}, {platform.machine()}, {jax.local_device_count()} device(s), {options.run}')
    with serving(options.run, options.folder, '--rows', str(options.rows)) as (url, process):
        parts = {
            'equal': lambda: equal(options.run, url),
            'leak': lambda: leak(url, process, options.requests),
            'fuzz': lambda: fuzz(url, options.requests // 10),
            'speed': lambda: speed(url, json.loads(pathlib.Path(options.prompts).read_text()), options.tokens),
        }
        for part in options.parts:
            print(json.dumps({part: parts[part]()}, indent=1), flush=True)


if __name__ == '__main__':
    main()
