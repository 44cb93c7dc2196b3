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
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = '.'.join(str(part) for part in first['loc'])
            raise config.InputError(f'{where or "the body"}: {first["msg"]}.') from None


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

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, as texts or as tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]


class MessageBody(Body):
    """One message of a conversation."""

    role: Literal['system', 'user', 'assistant']
    content: ShortText
    name: str | None = None


class ChatBody(TextBody):
    """Of /v1/chat/completions."""

    messages: list[MessageBody] = pydantic.Field(min_length=1, max_length=1_000)
    max_tokens: int | None = pydantic.Field(default=None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = pydantic.Field(default=None, ge=1, le=2**31 - 1)
    logprobs: bool = False
    top_logprobs: int | None = pydantic.Field(default=None, ge=0, le=20)


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
