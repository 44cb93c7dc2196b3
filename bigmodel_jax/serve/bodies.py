"""The bodies of requests: what may stand in them, checked strictly. The OpenAPI description is made from these."""

from typing import Annotated, Any, ClassVar, Literal

import pydantic

from bigmodel_jax import config

LARGEST_SEED = 2**63 - 1  # What other programs take for an integer.
MOST_TEXTS = 128  # That one request may ask for.
MOST_CHARACTERS = 2**20  # Of one text.
TokenId = Annotated[int, pydantic.Field(ge=0, le=2**31 - 1)]
ShortText = Annotated[str, pydantic.Field(max_length=MOST_CHARACTERS)]
TokenIds = Annotated[list[TokenId], pydantic.Field(min_length=1)]
Texts = Annotated[list[ShortText], pydantic.Field(min_length=1, max_length=MOST_TEXTS)]
ListsOfIds = Annotated[list[TokenIds], pydantic.Field(min_length=1, max_length=MOST_TEXTS)]
Stop = Annotated[str, pydantic.Field(min_length=1, max_length=256)]


class Body(pydantic.BaseModel):
    """A body in JSON; what it does not know is refused, since it would have no effect."""

    model_config: ClassVar[Any] = pydantic.ConfigDict(extra='forbid', allow_inf_nan=False)

    @classmethod
    def read(cls, content: bytes) -> Any:
        """The body that `content` is.

        Raises:
          InputError: it is not, with the first reason.
        """
        try:
            return cls.model_validate_json(content)
        except pydantic.ValidationError as error:
            raise config.InputError(_reason(error)) from None


def _reason(error: pydantic.ValidationError) -> str:
    """The first reason, with the alternatives where a field may have several types."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    # Between the names of fields stand those of types, such as 'constrained-str', which say nothing to a client.
    where = '.'.join(str(part) for part in found[0]['loc'] if isinstance(part, int) or part.isidentifier())
    if found[0]['type'] == 'extra_forbidden':
        return f'{where} is not known to this server, so it would have no effect; leave it out.'
    is_union = where != '.'.join(map(str, found[0]['loc']))
    said = [each['msg'] for each in found if is_union and each['loc'][0] == found[0]['loc'][0]] or [found[0]['msg']]
    return f'{where or "the body"}: {"; or ".join(dict.fromkeys(said))}.'


class StreamOptions(Body):
    """What a stream tells beside the text."""

    include_usage: bool = False


class TextBody(Body):
    """What requests for text have in common."""

    model: str | None = None
    temperature: float = pydantic.Field(default=1.0, ge=0, le=100)
    top_p: float = pydantic.Field(default=1.0, gt=0, le=1)
    top_k: int | None = pydantic.Field(default=None, ge=1, le=2**31 - 1)
    n: int = pydantic.Field(default=1, ge=1, le=MOST_TEXTS)
    seed: int | None = pydantic.Field(default=None, ge=0, le=LARGEST_SEED)
    stop: Stop | Annotated[list[Stop], pydantic.Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    # Known of the interface, and taken only where they change nothing.
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None

    @property
    def stops(self) -> list[str]:
        """The texts that end the text."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(TextBody):
    """Of /v1/completions."""

    prompt: ShortText | TokenIds | Texts | ListsOfIds = ''
    max_tokens: int | None = pydantic.Field(default=16, ge=0, le=2**31 - 1)
    logprobs: int | None = pydantic.Field(default=None, ge=0, le=20)
    echo: bool = False
    best_of: Literal[1] | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, as texts or as tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]


class TextPart(Body):
    """A part of a message."""

    type: Literal['text']
    text: ShortText


class TextFormat(Body):
    """The form of an answer, of which there is one."""

    type: Literal['text']


class MessageBody(Body):
    """One message of a conversation."""

    role: Literal['system', 'user', 'assistant']
    content: ShortText | Annotated[list[TextPart], pydantic.Field(min_length=1, max_length=MOST_TEXTS)]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content, whose parts follow one another."""
        return self.content if isinstance(self.content, str) else ''.join(part.text for part in self.content)


class ChatBody(TextBody):
    """Of /v1/chat/completions."""

    messages: list[MessageBody] = pydantic.Field(min_length=1, max_length=1_000)
    max_tokens: int | None = pydantic.Field(default=None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = pydantic.Field(default=None, ge=1, le=2**31 - 1)
    logprobs: bool = False
    top_logprobs: int | None = pydantic.Field(default=None, ge=0, le=20)
    response_format: TextFormat | None = None


class EmbeddingBody(Body):
    """Of /v1/embeddings."""

    model: str | None = None
    input: ShortText | TokenIds | Texts | ListsOfIds
    encoding_format: Literal['float', 'base64'] = 'float'
    user: str | None = None

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The texts, as such or as tokens."""
        return CompletionBody(prompt=self.input).prompts


class PredictBody(Body):
    """Of /predict: records with the fields that the model reads, arrays as nested lists."""

    model: str | None = None
    records: list[dict[str, Any]] = pydantic.Field(min_length=1, max_length=1_024)
