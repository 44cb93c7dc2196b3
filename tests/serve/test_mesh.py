"""A model that is spread over devices: its answers are those offline on the same mesh, and nothing is compiled."""

import concurrent.futures

import jax
import numpy as np
import pytest

from bigmodel_jax import web_server
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate.engine import text_engine
from bigmodel_jax.evaluate.engine.text_request import Draw, TextRequest
from bigmodel_jax.models import decoder
from bigmodel_jax.parallel import sharding
from bigmodel_jax.serve import application, served_model, server

openai = pytest.importorskip('openai')
pytest.importorskip('prometheus_client')
BYTES = tokenizers.ByteTokenizer()
DATA = text.Text(source=sources.TextFile(path='x.txt'), tokenizer=tokenizers.Bytes(), batch=2, length=8)
SIZES = {'vocab': 260, 'width': 64, 'layers': 2, 'heads': 4, 'kv_heads': 4, 'hidden': 96}
MIXTRAL = decoder.mixtral(experts=4, **SIZES)
LLAMA = decoder.llama(rope_base=10_000.0, **SIZES)
TENSOR, EXPERT = sharding.MeshShape(data=1, tensor=4), sharding.MeshShape(data=1, tensor=2, expert=2)


@pytest.mark.slow
@pytest.mark.parametrize(('model', 'mesh'), [(LLAMA, TENSOR), (MIXTRAL, EXPERT)])
def test_answers_on_a_mesh_are_those_offline(model, mesh):
    place = mesh.build()
    params = model.build().init(jax.random.key(0), {'inputs': np.zeros((1, 4), np.int32)})['params']
    weights = text_engine.EngineWeights(model, jax.device_put(params, place.replicated), place=place)
    asked = [
        TextRequest(prompt=BYTES.encode_prompt('ab' * (7 * i)), tokens=5 + 3 * i, end=BYTES.end, draw=Draw(seed=i))
        for i in range(6)
    ]
    offline = text_engine.complete(weights, asked)
    limits = text_engine.EngineLimits(rows=16, length=128)
    engine = text_engine.TextEngine(weights, limits=limits)
    served = served_model.ServedModel(name='wide', step=0, data=DATA, fingerprint='fp', tokenizer=BYTES, engine=engine)
    with server.ModelServer(served, access=application.Access(address=web_server.Address(port=0))) as made:
        client = openai.OpenAI(base_url=f'{made.url}/v1', api_key='none', max_retries=0)

        def answer(request):
            body = {'prompt': request.prompt.tolist(), 'max_tokens': request.tokens, 'seed': request.draw.seed}
            (choice,) = client.completions.create(model='wide', logprobs=0, **body).choices
            return choice.logprobs.token_ids, choice.logprobs.token_logprobs

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            found = list(pool.map(answer, asked))
        alone = answer(asked[3])
        assert made.compilations == 0
    assert found == [(each.tokens, each.log_ps) for each in offline]
    assert alone == found[3]
