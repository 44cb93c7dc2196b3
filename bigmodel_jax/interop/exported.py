"""What a directory of Hugging Face has beside weights and model: the tokenizer, and the fields that belong to it."""

import pathlib
from collections.abc import Iterator
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer, special_tokens
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.interop import converted, family, huggingface, matching
from bigmodel_jax.run_directory import identity
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files

ORIGIN = 'huggingface.json'  # In the run's directory: config.json, its model, and how the files named their tensors.
FILES = (pretrained_tokenizer.JSON, 'tokenizer.model', special_tokens.CONFIG)
# Fields of config.json that our models do not have, and that say something of these weights or their tokenizer.
KEPT = (
    'max_position_embeddings', 'bos_token_id', 'eos_token_id', 'pad_token_id', 'decoder_start_token_id',
    'forced_eos_token_id', 'forced_bos_token_id',
)  # fmt: skip


def families(run: directory.Run) -> list[family.Family]:
    """The families that have models like that of a run; first the one of the directory that the run began with."""
    found = [known for known in huggingface.FAMILIES if isinstance(run.experiment.model, known.kind)]
    begun = (_begun_with(run) or {}).get('model_type')
    return sorted(found, key=lambda known: begun not in known.model_types)


def other_fields(run: directory.Run, known: family.Family) -> dict[str, Any]:
    """What a config.json says beside what the model is; what it does not say would mean the reference's default.

    A run that began with a directory of Hugging Face keeps what that one said. Of another, the longest input is as long
    as in its training, and the tokens at the ends of a text are those of its tokenizer, or none.
    """
    fields: dict[str, Any] = {}
    if 'max_position_embeddings' in known.config_fields and 'inputs' in run.experiment.data.fields:
        fields['max_position_embeddings'] = run.experiment.data.fields['inputs'].shape[0]
    tokenizer = identity.tokenizer_of(run.path)
    if not known.is_paired and 'inputs' in run.experiment.data.fields:
        fields['bos_token_id'] = None if tokenizer is None else tokenizer.begin
        fields['eos_token_id'] = None if tokenizer is None else tokenizer.end
    said = _begun_with(run)
    if said and said.get('model_type') in known.model_types:
        fields |= {name: said[name] for name in KEPT if name in said}
    learned = getattr(getattr(run.experiment.model, 'positions', None), 'length', None)
    if learned is not None:
        fields.pop('max_position_embeddings', None)  # The model itself has it.
    return fields


def _begun_with(run: directory.Run) -> dict[str, Any] | None:
    """The config.json of the directory that a run began with, if it was one of Hugging Face."""
    return next((each['start'].get('config') for each in _sessions(run) if 'start' in each), None)


def max_length(run: epath.Path, experiment: Experiment) -> int | None:
    """How many tokens the model of a run reads at most: as in its training, or as a converted config.json says."""
    if not isinstance(experiment.data, converted.Elsewhere):
        return experiment.data.fields['inputs'].shape[0] if 'inputs' in experiment.data.fields else None
    path = run / ORIGIN
    if not durable_files.exists(path):
        return None
    values = durable_files.read_json(path)['config']
    return matching.family_of(values, huggingface.FAMILIES, str(path)).max_length(values)


def _sessions(run: directory.Run) -> Iterator[dict[str, Any]]:
    yield from run.environment


def tokenizer_files(run: epath.Path) -> dict[str, bytes]:
    """The files of a run's tokenizer that Hugging Face's libraries read, if it has any."""
    tokenizer = identity.tokenizer_of(run)
    stored = {} if tokenizer is None else tokenizer.files()
    return {name: stored[name] for name in FILES if name in stored}


def bring_tokenizer(source: pathlib.Path, run: epath.Path) -> list[str]:
    """Stores the tokenizer of a directory of Hugging Face with the run that is made of it; says so if it cannot.

    Returns:
      A sentence where there is a tokenizer that the run does not get.
    """
    names = (pretrained_tokenizer.JSON, *pretrained_tokenizer.MODELS)
    if not any((source / name).is_file() for name in names):
        return []
    try:
        identity.store_tokenizer(pretrained_tokenizer.Pretrained(path=str(source)).build(), run)
    except config.InputError as error:
        return [f'The tokenizer is left out, so that the run cannot write text. {error}']
    return []
