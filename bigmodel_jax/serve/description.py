"""The OpenAPI description of the server, from the bodies that it reads."""

from typing import Any

import bigmodel_jax
from bigmodel_jax.serve import bodies

ERRORS = {
    '400': 'The request is wrong; the message says why.',
    '401': 'The key is missing or wrong.',
    '404': 'There is no such path or model.',
    '405': 'The path has another method.',
    '408': 'The answer took too long.',
    '413': 'The body is too long.',
    '421': 'The server was asked for under a name that is not its own.',
    '429': 'Too many texts wait; the header Retry-After says for how long.',
    '503': 'The server is stopping.',
}
Described = dict[str, tuple[type[bodies.Body], str]]  # Path -> its body, and what it is for.
TEXT: Described = {
    '/v1/completions': (bodies.CompletionBody, 'Continues prompts.'),
    '/v1/chat/completions': (bodies.ChatBody, 'Answers a conversation.'),
    '/v1/embeddings': (bodies.EmbeddingBody, 'The mean of the last features over the tokens of each text.'),
}
ROWS: Described = {'/predict': (bodies.PredictBody, 'Labels with probabilities, or numbers, of records.')}


def openapi(*, text: bool) -> dict[str, Any]:
    """The description, OpenAPI 3.1.

    Args:
      text: whether the model generates text; else it predicts labels or numbers.
    """
    schemas: dict[str, Any] = {'Error': _object({'error': _object({'message': {'type': 'string'}})})}
    paths: dict[str, Any] = {
        '/health': {'get': _operation('Whether the server answers.')},
        '/v1/models': {'get': _operation('The model that is served.')},
        '/metrics': {'get': _operation('Counters in the format of Prometheus.', kind='text/plain')},
    }
    for path, (body, summary) in (TEXT if text else ROWS).items():
        schema = body.model_json_schema(ref_template='#/components/schemas/{model}')
        schemas |= schema.pop('$defs', {})
        schemas[body.__name__] = schema
        operation = _operation(summary, streams=body in (bodies.CompletionBody, bodies.ChatBody))
        reference = {'schema': {'$ref': f'#/components/schemas/{body.__name__}'}}
        operation['requestBody'] = {'required': True, 'content': {'application/json': reference}}
        paths[path] = {'post': operation}
    return {
        'openapi': '3.1.0',
        'info': {'title': 'bigmodel_jax serve', 'version': bigmodel_jax.__version__},
        'paths': paths,
        'components': {
            'schemas': schemas,
            'securitySchemes': {'key': {'type': 'http', 'scheme': 'bearer'}},
        },
        'security': [{}, {'key': []}],
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {'type': 'object', 'properties': properties, 'required': list(properties)}


def _operation(summary: str, *, kind: str = 'application/json', streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {}}
    if streams:
        content['text/event-stream'] = {}
    wrong = {'application/json': {'schema': {'$ref': '#/components/schemas/Error'}}}
    errors = {status: {'description': text, 'content': wrong} for status, text in ERRORS.items()}
    return {'summary': summary, 'responses': {'200': {'description': 'The answer.', 'content': content}, **errors}}
