"""The server: its answers are those of the engine alone, bit for bit; and what it says of wrong requests."""

import concurrent.futures
import dataclasses
import json
import threading
import time
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest

from bigmodel_jax import config, web_server
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.data.text.chats import chat_templates, instructions
from bigmodel_jax.evaluate.engine import engine_shape, text_engine
from bigmodel_jax.evaluate.engine.text_request import Draw, TextRequest
from bigmodel_jax.models import decoder
from bigmodel_jax.serve import application, bodies, served_model, served_texts, server, text_progress

openai = pytest.importorskip('openai')
pytest.importorskip('prometheus_client')
MODEL = decoder.gpt(vocab=257, width=16, layers=1, heads=2, length=64)
BYTES = tokenizers.ByteTokenizer()
TEXT = text.Text(source=sources.TextFile(path='x.txt'), tokenizer=tokenizers.Bytes(), batch=2, length=8)
DATA = instructions.Instructions(
    source=sources.JsonLines(pattern='x.jsonl'),
    tokenizer=tokenizers.Bytes(),
    batch=2,
    length=8,
    template=chat_templates.Plain(user='U:', assistant='A:', separator=' '),
)
SHAPE = engine_shape.EngineShape(group=4, chunk=8, page=8)
LIMITS = text_engine.EngineLimits(rows=4)
KEY = 'secret'


@pytest.fixture(scope='module')
def params():
    return MODEL.build().init(jax.random.key(0), {'inputs': np.zeros((1, 4), np.int32)})['params']


@pytest.fixture(scope='module')
def engine(params):
    return text_engine.TextEngine(text_engine.EngineWeights(MODEL, params), SHAPE, LIMITS)


@pytest.fixture(scope='module')
def spare(params):
    """An engine that does nothing else. Made, and used, before the server counts what is compiled."""
    made = text_engine.TextEngine(text_engine.EngineWeights(MODEL, params), SHAPE, LIMITS)
    made.warm_up()
    return made


@pytest.fixture(scope='module')
def serving(engine, spare):
    served = served_model.ServedModel(name='tiny', step=3, data=DATA, fingerprint='fp', tokenizer=BYTES, engine=engine)
    access = application.Access(address=web_server.Address(port=0), key=KEY)
    with server.ModelServer(served, access=access, limits=served_texts.ServingLimits(queue=64)) as made:
        yield made
    assert made.compilations == 0
    assert engine.running == engine.waiting == 0
    assert len(engine.pages) == engine.pages.count


@pytest.fixture(scope='module')
def client(serving):
    return openai.OpenAI(base_url=f'{serving.url}/v1', api_key=KEY, max_retries=0)


def alone(spare, prompt, tokens, **how):
    """The tokens and log-probabilities offline, in an engine that does nothing else."""
    request = TextRequest(prompt=BYTES.encode_prompt(prompt), tokens=tokens, end=BYTES.end, draw=Draw(**how))
    (found,) = spare.complete([request])
    return found.tokens, found.log_ps


def test_many_at_once_are_answered_as_each_alone(client, spare):
    asked = [
        {
            'prompt': 'ab' * (number % 9),
            'max_tokens': 1 + number * 5 % 17,
            'seed': number,
            'temperature': number % 3 / 2,
        }
        for number in range(12)
    ]

    def answer(body):
        (choice,) = client.completions.create(model='tiny', logprobs=0, **body).choices
        told = choice.logprobs
        return told.token_ids, told.token_logprobs

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        found = list(pool.map(answer, asked))
    for body, answered in zip(asked, found):
        how = {'tokens': body['max_tokens'], 'seed': body['seed'], 'temperature': body['temperature']}
        assert answered == alone(spare, body['prompt'], **how)


def test_a_stream_says_what_the_whole_answer_says_and_stops_where_it_should(client):
    body = {'model': 'tiny', 'prompt': 'xy', 'max_tokens': 40, 'seed': 5, 'n': 2}
    whole = client.completions.create(**body)
    texts = ['', '']
    for part in client.completions.create(**body, stream=True):
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert texts[0] != texts[1]
    stop = texts[0][3:5]
    (stopped, _) = client.completions.create(**body, stop=stop).choices
    assert (stopped.text, stopped.finish_reason) == (texts[0][: texts[0].index(stop)], 'stop')


def test_a_client_that_leaves_frees_its_row(client, serving):
    parts = client.completions.create(model='tiny', prompt='xy', max_tokens=60, stream=True, temperature=2, n=16)
    next(iter(parts))
    parts.close()
    deadline = time.monotonic() + 30
    while 'bigmodel_jax_cancelled_texts_total 0.0' in ask(serving, '/metrics')[1]:
        assert time.monotonic() < deadline


def test_a_conversation_is_answered_with_the_template_of_the_data(client, serving, spare):
    messages = [{'role': 'user', 'content': 'hi'}]
    how = {'seed': 3, 'temperature': 0.9, 'max_tokens': 9}
    answer = client.chat.completions.create(model='tiny', messages=messages, logprobs=True, top_logprobs=2, **how)
    (choice,) = answer.choices
    tokens = [each.token_id for each in choice.logprobs.content]
    log_ps = [each.logprob for each in choice.logprobs.content]
    assert (tokens, log_ps) == alone(spare, 'U:hi A:', 9, seed=3, temperature=0.9)
    in_parts = [{'role': 'user', 'content': [{'type': 'text', 'text': 'h'}, {'type': 'text', 'text': 'i'}]}]
    parts = client.chat.completions.create(model='tiny', messages=in_parts, stream=True, **how)
    assert ''.join(part.choices[0].delta.content or '' for part in parts) == choice.message.content
    with pytest.raises(config.InputError, match='no chat template'):
        dataclasses.replace(serving.served, data=TEXT).encode_messages(messages)


def test_embeddings_and_models(client):
    found = client.embeddings.create(model='tiny', input=['ab', 'ab', 'c'])  # The client asks for base64.
    plain = client.embeddings.create(model='tiny', input='ab', encoding_format='float')
    assert found.data[0].embedding == found.data[1].embedding == plain.data[0].embedding
    assert [model.id for model in client.models.list()] == ['tiny']


def ask(serving, path, body=None, key=KEY, **headers):
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(serving.url + path, content, {'Authorization': f'Bearer {key}', **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ('path', 'body', 'status', 'message'),
    [
        ('/v1/completions', b'{"prompt": ', 400, 'the body: Invalid JSON'),
        ('/v1/completions', {'prompt': 'a', 'max_token': 1}, 400, 'max_token is not known to this server'),
        (
            '/v1/completions',
            {'prompt': 5},
            400,
            'prompt: Input should be a valid string; or Input should be a valid array',
        ),
        ('/v1/completions', {'prompt': 'a' * 80}, 400, 'a text has 65 at most here'),
        ('/v1/completions', {'prompt': [999]}, 400, 'the model knows 0 to 256'),
        ('/v1/completions', {'prompt': 'a', 'model': 'gpt-4'}, 404, "'gpt-4' is not served here, but 'tiny' is"),
        ('/v1/completions', {'prompt': ['a'] * 2, 'n': 128}, 400, 'more than 128 texts'),
        ('/v1/completions', {'prompt': 'a', 'n': 65}, 400, '64 wait here at most'),
        ('/v1/chat/completions', {'messages': [{'role': 'judge', 'content': 'a'}]}, 400, 'messages.0.role'),
        ('/v1/chat/completions', {'messages': [{'role': 'system', 'content': 'a' * 80}]}, 400, 'has 65 at most'),
        ('/predict', {'records': [{}]}, 404, 'Not Found'),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(serving, path, body, status, message):
    found, said = ask(serving, path, body)
    assert (found, message in json.loads(said)['error']['message']) == (status, True), said


def test_only_who_has_the_key_and_names_the_server_is_answered(serving):
    assert ask(serving, '/v1/models', key='secre')[0] == 401
    assert ask(serving, '/health', key='')[0] == 200
    assert ask(serving, '/v1/models', Host='evil.example')[0] == 421
    assert 'bigmodel_jax_compilations_after_start 0.0' in ask(serving, '/metrics')[1]


def test_a_queue_that_is_full_takes_no_more(spare):
    thread = server.engine_thread.EngineThread(spare)
    service = served_texts.TextService(thread, BYTES, served_texts.ServingLimits(queue=1))
    request = TextRequest(prompt=np.zeros(1, np.int32), tokens=1, end=1)
    left = [spare.submit(request), spare.submit(request)]
    with pytest.raises(served_texts.QueueFull):
        service.start([request])
    for each in left:
        spare.cancel(each)
    spare.step()


def test_a_late_answer_and_a_full_queue_are_told_over_http(spare):
    """Without a race: the thread of the engine is held up until all is asked."""
    is_held, go_on = threading.Event(), threading.Event()

    def hold():
        is_held.set()
        go_on.wait()

    served = served_model.ServedModel(name='tiny', step=3, data=DATA, fingerprint='fp', tokenizer=BYTES, engine=spare)
    limits = served_texts.ServingLimits(queue=2, timeout_s=0.3)
    with server.ModelServer(
        served, access=application.Access(address=web_server.Address(port=0)), limits=limits
    ) as made:
        try:
            made.thread.submit(TextRequest(prompt=np.zeros(1, np.int32), tokens=1, end=-1), hold)
            assert is_held.wait(timeout=60)
            asking = openai.OpenAI(base_url=f'{made.url}/v1', api_key='none', max_retries=0)
            body = {'model': 'tiny', 'prompt': 'a'}
            with pytest.raises(openai.APIStatusError, match=r'over 0\.3 s') as late:
                asking.completions.create(**body)
            with pytest.raises(openai.APIError, match=r'over 0\.3 s'):  # It had begun to answer, with status 200.
                list(asking.completions.create(**body, stream=True))
            with pytest.raises(openai.RateLimitError, match='try again later') as full:
                asking.completions.create(**body)
        finally:
            go_on.set()
        assert (late.value.status_code, full.value.response.headers['Retry-After']) == (408, '1')
    assert spare.running == spare.waiting == 0


def test_a_port_in_use_and_a_missing_key_are_refused_before_anything_starts(serving, engine, tmp_path):
    port = int(serving.url.rpartition(':')[2])
    with pytest.raises(config.InputError, match='Another program uses it'):
        server.ModelServer(serving.served, access=application.Access(address=web_server.Address(port=port)))
    with pytest.raises(config.InputError, match='cannot be read'):
        server.read_key(str(tmp_path / 'none'))
    (tmp_path / 'empty').write_text('\n')
    with pytest.raises(config.InputError, match='is empty'):
        server.read_key(str(tmp_path / 'empty'))


def test_what_may_begin_a_stop_and_half_a_character_are_held_back():
    progress = text_progress.TextProgress(BYTES, BYTES.encode_prompt('p'), ['END'])
    told = []
    for token in BYTES.encode('aEéEN'):
        progress.add([int(token)])
        told.append(progress.news(is_last=False))
    assert told == ['a', '', 'E', 'é', '', '']
    progress.add(BYTES.encode('D and more').tolist())
    assert (progress.is_stopped, progress.text, progress.news(is_last=True), progress.tokens) == (True, 'aEé', '', 7)


def test_the_description_names_every_body():
    described = application.description.openapi(text=True)
    assert {body.__name__ for body in (bodies.ChatBody, bodies.CompletionBody)} <= set(
        described['components']['schemas']
    )
