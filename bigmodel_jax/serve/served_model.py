"""The model that a server serves: a run, with its name, its tokenizer and how it is asked."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import chat_templates, instructions
from bigmodel_jax.evaluate import predictor as predictors
from bigmodel_jax.evaluate.engine import engine_shape, text_engine
from bigmodel_jax.evaluate.text import decoding_model
from bigmodel_jax.runs import restored_model

USUAL = text_engine.USUAL
Messages = Sequence[chat_templates.Message]


class UnknownModel(config.InputError):
    """A request names a model that is not served here."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model with what is needed to serve it.

    Attributes:
      data: the data config that it was trained on.
      tokenizer, engine: of a model that generates text; else None.
      predictor: of a model that predicts labels or numbers; else None.
      fingerprint: equal for servers whose answers to equal requests are equal bit for bit.
    """

    name: str
    step: int
    data: batches.Data
    fingerprint: str
    tokenizer: tokenizers.Tokenizer | None = None
    engine: text_engine.TextEngine | None = None
    predictor: predictors.Predictor | None = None

    @classmethod
    def of_run(
        cls, trained: restored_model.Trained, name: str | None = None, limits: text_engine.EngineLimits = USUAL
    ) -> Self:
        """The model of a run; its name is that of the directory unless one is given.

        Raises:
          InputError: the run has no tokenizer, or its model can neither generate with the engine nor predict.
        """
        experiment, model = trained.experiment, trained.experiment.model
        told = {'experiment': config.to_json(experiment), 'step': trained.step, 'weights': trained.weights}
        told |= {'shape': repr(engine_shape.DEFAULT), 'jax': jax.__version__, 'platform': trained.place.platform}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        base: dict[str, Any] = {'name': name or trained.path.name, 'step': trained.step, 'data': experiment.data}
        base |= {'fingerprint': f'fp_{digest}'}
        if not isinstance(model, decoding_model.Generative):
            return cls(**base, predictor=trained.predictor())
        reason = engine_shape.unsupported_reason(model)
        if reason is not None:
            raise config.InputError(f'serve cannot serve {trained.path}: {reason}. `sample` and `evaluate` can use it.')
        tokenizer = trained.tokenizer
        weights = text_engine.EngineWeights(model, trained.params, trained.model_state, trained.place)
        return cls(**base, tokenizer=tokenizer, engine=text_engine.TextEngine(weights, limits=limits))

    def check_name(self, name: str | None) -> None:
        """Raises UnknownModel if a request names another model."""
        if name is not None and name != self.name:
            raise UnknownModel(f'The model {name!r} is not served here, but {self.name!r} is.')

    @property
    def _template(self) -> Callable[[Messages, tokenizers.Tokenizer], np.ndarray] | None:
        if isinstance(self.data, instructions.Instructions):
            return self.data.template.encode_prompt
        if self.tokenizer is not None and self.tokenizer.chat_template:
            return chat_templates.Jinja().encode_prompt
        return None

    def encode_messages(self, messages: Messages) -> np.ndarray:
        """What the model reads to answer a conversation: [n] int32.

        Raises:
          InputError: neither its data nor its tokenizer has a template; or the template fails.
        """
        template = self._template
        if template is None or self.tokenizer is None:
            raise config.InputError(
                f'{self.name} was not trained on conversations, and its tokenizer has no chat template. '
                'Use /v1/completions.'
            )
        return template(messages, self.tokenizer)
