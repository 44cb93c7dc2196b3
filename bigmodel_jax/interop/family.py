"""What a family of published models is: how its config.json, its tensors and its inputs are ours."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.interop import fields, reference, rules
from bigmodel_jax.interop.files import folder
from bigmodel_jax.models import bert, decoder, seq2seq
from bigmodel_jax.models import model as models

Arrays = Mapping[str, Any]
# Fields of our configs that say how something is computed or how it was drawn, not what it is once it is trained.
LENGTHS = ('n_positions', 'max_position_embeddings')  # Fields of config.json, of which a family has one.
NOT_STORED = ('init', 'out_init', 'dropout', 'dtype', 'stack', 'kernel', 'balance', 'z_loss', 'momentum')


class Family:
    """Interface; each family is one file beside this one."""

    model_types: tuple[str, ...]  # As config.json has it.
    architectures: tuple[str, ...]  # The classes of the reference that it implements, as config.json names them.
    old_architectures: tuple[str, ...] = ()  # Their names in files of the first versions.
    config_fields: fields.Table  # Every field that its config.json may have.
    aliases: ClassVar[Mapping[str, str]] = {}  # Other names of fields, as the reference reads them.
    kind: type  # Of our models.
    stem: ClassVar[str] = folder.STEM  # What the names of its files begin with.
    target: ClassVar[str] = 'labels'  # The field of a batch without which there is no loss.
    is_paired = False  # Whether it has an encoder and a decoder.
    needed: ClassVar[
        Mapping[str, tuple[str, ...]]
    ] = {}  # Output -> first names of parameters without which there is none.

    def model(self, fields: fields.Fields) -> Any:
        """Our model of a config.json.

        Raises:
          InputError: a field is missing, or asks for what is not implemented.
        """
        raise NotImplementedError

    def config(self, model: Any) -> dict[str, Any]:
        """The config.json of a model of ours, if it is one of the family: the inverse of model()."""
        raise NotImplementedError

    def sizes(self, model: Any) -> dict[str, int]:
        """The sizes of the letters and names in the table."""
        raise NotImplementedError

    def tables(self, model: Any) -> tuple[rules.TensorRules, ...]:
        """The names that files of such a model use; the first is what is written."""
        raise NotImplementedError

    def batch(self, inputs: Mapping[str, np.ndarray], model: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Our batch of the reference's inputs, and the labels, if there are any.

        Args:
          values: config.json, or our own fields of it, for the tokens that it names.

        Raises:
          InputError: an input is unknown or missing, or does not fit the model.
        """
        raise NotImplementedError

    def outputs(self, model: Any, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The reference's outputs by name; a pure function of arrays. `batch` is as batch() made it."""
        raise NotImplementedError

    def stateful_outputs(self, model: Any, params: Any, state: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """outputs() of a model that has state besides its parameters, such as the statistics of batch norm."""
        return self.outputs(model, params, batch)

    def body(self, model: Any) -> Any:
        """The part of a model that has its layers: of a head, its encoder."""
        return model

    def with_dtype(self, model: Any, dtype: models.Dtype) -> Any:
        """The model, computed in this dtype."""
        return config.vary(model, {'dtype': dtype})

    def written(self, model: Any) -> rules.TensorRules:
        """The names under which files are written, where a model has not been converted from others."""
        return self.tables(model)[0]

    def settled(self, model: Any, source: folder.Folder) -> Any:
        """The model, where its config.json alone does not settle what it is."""
        return model

    def renamed(self, table: rules.TensorRules) -> Mapping[str, str]:
        """Outputs that the reference calls otherwise where files have this table: name here -> name there."""
        return {}

    def check(self, batch: Mapping[str, np.ndarray], model: Any) -> None:
        """Raises InputError if the model cannot read a batch."""
        # The inputs of language models: sequences, and numbers of an example.
        fields = {
            name: batches.Field(
                array.shape[1:], array.dtype, ('length',) * (array.ndim - 1), int(array.max(initial=0)) + 1
            )
            for name, array in batch.items()
        }
        if 'positions' in fields:  # As long as the last position, whatever is left out before it.
            longest = max(fields['inputs'].shape[0], fields['positions'].upper_bound or 0)
            fields['inputs'] = dataclasses.replace(fields['inputs'], shape=(longest,))
        if reference.windows(self.body(model)):  # Which may be longer than what is asked here.
            model = reference.without_windows(model)
        model.check(fields)

    def absent(self, table: rules.TensorRules) -> tuple[str, ...]:
        """First names of the parameters of a model that files of this table do not have."""
        return ()

    def read(self, values: Mapping[str, Any], where: str) -> fields.Fields:
        """The fields of a config.json.

        Raises:
          InputError: one is unknown, or asks for what no family implements.
        """
        found = fields.Fields(values, where, self.config_fields, self.aliases)
        fields.check_common(found, self.architectures, self.old_architectures)
        return found

    def max_length(self, values: Mapping[str, Any]) -> int | None:
        """How many tokens a config.json says that the model reads at most; None where it has no such number."""
        names = [name for name in LENGTHS if name in self.config_fields]
        return self.read(values, 'config.json').whole(names[0]) if names else None

    def describe(self, values: Mapping[str, Any], where: str) -> models.Model:
        """Our model of a config.json.

        Raises:
          InputError: it says something that is not implemented, or that contradicts itself.
        """
        model = config.check(self.model(self.read(values, where)))
        # What a layer finds wrong with itself it says when it is built.
        body = self.body(model)
        reference.attention_of(body).width_of_head(body.width)
        body.block.ffn.build()
        return model

    def config_of(self, model: Any) -> dict[str, Any]:
        """The config.json of a model of ours.

        Raises:
          InputError: it says something that the family cannot.
        """
        values = self.config(model)
        again = self.describe(values, f'config.json of {self.model_types[0]}')
        self.check_same(again, model, f'A {self.model_types[0]}')
        return values

    def check_same(self, described: Any, model: Any, where: str) -> None:
        """Raises InputError if a model is another than the one that a config.json describes."""
        found = [
            each for each in config.difference(described, model) if not set(each.path.split('.')) & set(NOT_STORED)
        ]
        if found:
            lines = '\n'.join(f'  {each}' for each in found)
            raise config.InputError(f'{where} is another model. What it can say -> what the model has:\n{lines}')


# ---- what families share ------------------------------------------------------------------------------------------


def decoder_sizes(model: decoder.Decoder | bert.Bert) -> dict[str, int]:
    """The sizes of the letters of a model with one stack."""
    shape = reference.attention_of(model)
    return {
        'layer': model.layers,
        'V': model.vocab,
        'D': model.width,
        'H': shape.heads,
        'G': shape.kv_heads or shape.heads,
        'K': shape.width_of_head(model.width),
        'F': getattr(reference.block_of(model).ffn, 'hidden', 0),
    }


def decoder_outputs(
    model: decoder.Decoder, params: Any, batch: Mapping[str, Any]
) -> tuple[dict[str, Any], jax.Array | None]:
    """Logits, hidden states, the loss where there are labels; and what the routers say [L, B, T, E], if any do."""

    def forward(module: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
        x_BTD, _ = module.features(batch)
        return x_BTD, module.unembed(x_BTD)

    (x_BTD, logits_BTV), streams, routers = reference.run(model.build(), params, batch, forward)
    found = {
        'logits': logits_BTV,
        'last_hidden_state': x_BTD,
        **reference.hidden_states('hidden_states', streams['blocks'], x_BTD),
    }
    if 'labels' in batch:
        found['loss'] = reference.mean_nll(logits_BTV[:, :-1], batch['labels'][:, 1:])
    return found, routers.get('blocks')


def seq2seq_sizes(model: seq2seq.Seq2Seq) -> dict[str, int]:
    """The sizes of the letters of a Seq2Seq."""
    shape = reference.attention_of(model)
    return {
        'encoder': model.encoder_layers,
        'decoder': model.decoder_layers,
        'V': model.vocab,
        'D': model.width,
        'H': shape.heads,
        'K': shape.width_of_head(model.width),
        'F': getattr(model.block.ffn, 'hidden', 0),
    }


def seq2seq_outputs(model: seq2seq.Seq2Seq, params: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Logits, hidden states of both sides, and the loss where there are labels."""

    def forward(module: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
        memory_BSD = module.encode(batch)
        x_BTD, _ = module.features({**batch, 'memory': memory_BSD})
        return memory_BSD, x_BTD, module.unembed(x_BTD)

    (memory_BSD, x_BTD, logits_BTV), streams, _ = reference.run(model.build(), params, batch, forward)
    found = {
        'logits': logits_BTV,
        'encoder_last_hidden_state': memory_BSD,
        **reference.hidden_states('encoder_hidden_states', streams['encoder'], memory_BSD),
        **reference.hidden_states('decoder_hidden_states', streams['decoder'], x_BTD),
    }
    if 'labels' in batch:
        found['loss'] = reference.mean_nll(logits_BTV, batch['labels'])
    return found
