"""Models of Hugging Face as models of ours: load_pretrained() and what it gives."""

import contextlib
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bigmodel_jax import config, initialization
from bigmodel_jax.interop import family, matching
from bigmodel_jax.interop.families import (
    alexnet,
    bert,
    gemma,
    gpt2,
    llama,
    marian,
    phi,
    qwen,
    resnet,
    t5,
    vit,
)
from bigmodel_jax.interop.families.detection import detr
from bigmodel_jax.interop.families.diffusion import dit, unet
from bigmodel_jax.interop.families.heads import bert_heads, decoder_heads
from bigmodel_jax.interop.families.multimodal import clip
from bigmodel_jax.interop.files import folder
from bigmodel_jax.models import model as models

FAMILIES: tuple[family.Family, ...] = (
    bert.BertFamily(),
    bert_heads.BertSequences(),
    bert_heads.BertTokens(),
    bert_heads.BertAnswers(),
    clip.ClipFamily(),
    detr.DetrFamily(),
    gemma.Gemma(),
    gemma.Gemma2(),
    gemma.Gemma3(),
    gpt2.Gpt2(),
    llama.Llama(),
    llama.Mistral(),
    llama.Mixtral(),
    phi.Phi3(),
    qwen.Qwen2(),
    qwen.Qwen3(),
    decoder_heads.DecoderSequences(gemma.Gemma(), 'Gemma', padding=0),
    decoder_heads.DecoderSequences(gemma.Gemma2(), 'Gemma2', padding=0),
    decoder_heads.DecoderSequences(gemma.Gemma3(), 'Gemma3Text', padding=0),
    decoder_heads.DecoderSequences(gpt2.Gpt2(), 'GPT2'),
    decoder_heads.DecoderSequences(llama.Llama(), 'Llama'),
    decoder_heads.DecoderSequences(llama.Mistral(), 'Mistral'),
    decoder_heads.DecoderSequences(llama.Mixtral(), 'Mixtral'),
    decoder_heads.DecoderSequences(phi.Phi3(), 'Phi3', padding=32_000),
    decoder_heads.DecoderSequences(qwen.Qwen2(), 'Qwen2'),
    decoder_heads.DecoderSequences(qwen.Qwen3(), 'Qwen3'),
    marian.Marian(),
    t5.T5(),
    vit.ViT(),
    resnet.HuggingFaceResNet(),
    resnet.TorchvisionResNet(),
    alexnet.TorchvisionAlexNet(),
    unet.UNet2D(),
    dit.ReleasedDit(),
    dit.DiffusersDit(),
)


Arrays = Mapping[str, jax.Array]  # By path.


class PretrainedModel:
    """A published model, ready to be used. Made by load_pretrained().

    Attributes:
      model: its config.
      params: its parameters, as model.build().apply({'params': ..., **state}) takes them.
      state: its other collections, such as the statistics of batch norm; of most models there are none.
      values: its config.json.
      notes: what of the directory was not used, a sentence each.
      absent: first names of parameters that its files do not have, such as a head; they are zeros.
    """

    def __init__(self, found: matching.Match, model: models.Model, arrays: Arrays, values: Mapping[str, Any]):
        tree = matching.nested(arrays)
        self.state = tree.pop(initialization.STATE.removesuffix('.'), {})
        self.model, self.params, self.values = model, tree, values
        self._found = found
        self.absent = found.family.absent(found.table)
        self.notes = found.notes + [f'The files hold no {each}; its outputs are left out.' for each in self.absent]

    @property
    def max_length(self) -> int | None:
        """How many tokens config.json says that the model reads at most; None where it has no such number."""
        return self._found.family.max_length(self.values)

    @functools.cached_property
    def _forward(self) -> Any:
        return jax.jit(functools.partial(self._found.family.stateful_outputs, self.model))

    @functools.cached_property
    def _backward(self) -> Any:
        def loss(params: Any, state: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            found = self._found.family.stateful_outputs(self.model, params, state, batch)
            return found['loss'], found

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def apply(self, inputs: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """The reference's outputs of the reference's inputs, by name.

        Args:
          inputs: 'input_ids' [B, T], and as the family has them 'attention_mask', 'token_type_ids', 'position_ids',
            'decoder_input_ids', 'labels', 'next_sentence_label'; of images 'pixel_values' [B, 3, Y, X].

        Returns:
          'logits' [B, T, V] (of BERT 'prediction_logits', 'seq_relationship_logits'), 'hidden_states/0' ..., 'loss' if
          there are labels, and so on. Positions where attention_mask is 0 hold numbers without a meaning.

        Raises:
          InputError: an input is unknown, missing, or does not fit the model.
        """
        with precision(self.model):
            found = self._forward(self.params, self.state, self._batch(inputs))
        return self._there(found)

    def gradients(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, jax.Array], dict[str, np.ndarray]]:
        """The outputs, and the gradient of the loss for every tensor of the files, by its key.

        Raises:
          InputError: as apply(), or there are no labels.
        """
        batch = self._batch(inputs)
        target = self._found.family.target
        if target not in batch or self._needs_absent('loss'):
            raise config.InputError(
                f'There is a gradient of a loss only; pass {target}, to a model with an output layer.'
            )
        with precision(self.model):
            (_, found), tree = self._backward(self.params, self.state, batch)
        trained = {key: each for key, each in self._found.tensors.items() if not each.is_state}
        gradients = dict(matching.file_tensors(jax.device_get(tree), trained))
        return self._there(found), gradients

    def _there(self, found: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        names = self._found.family.renamed(self._found.table)
        return {names.get(name, name): value for name, value in found.items() if not self._needs_absent(name)}

    def _batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        batch = self._found.family.batch(inputs, self.model, self.values)
        self._found.family.check(batch, self.model)
        return batch

    def _needs_absent(self, output: str) -> bool:
        return not set(self._found.family.needed.get(output, ())).isdisjoint(self.absent)


def load_pretrained(directory: epath.PathLike, *, dtype: models.Dtype = 'float32') -> PretrainedModel:
    """The model in a directory of Hugging Face.

    Args:
      directory: with config.json and model.safetensors, or its index and shards.
      dtype: of the computation. With 'bfloat16' the weights stay as they are in the files, else they are converted.

    Raises:
      InputError: no family knows it, it asks for what is not implemented, or its files are damaged or do not fit.
    """
    source = folder.Folder(pathlib.Path(directory).expanduser())
    found = matching.match(source, FAMILIES)
    model = found.family.with_dtype(found.model, dtype)
    flat = matching.parameters(found, source)
    with precision(model):
        for path, shape in whole(model, found.family).items():
            flat.setdefault(path, np.zeros(shape, np.float32))
        kept = dtype == 'bfloat16'
        arrays = {path: jnp.asarray(array, None if kept else dtype) for path, array in flat.items()}
    return PretrainedModel(found, model, arrays, source.config)


def precision(model: Any) -> contextlib.AbstractContextManager[None]:
    """Float64 is off in JAX, but where a model asks for it."""
    return jax.enable_x64(True) if model.dtype == 'float64' else contextlib.nullcontext()


def whole(model: models.Model, known: Any) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every parameter of a model, and of its state, whatever its files hold."""
    return known.tables(model)[0].shapes(known.sizes(model))
