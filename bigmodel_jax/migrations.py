"""What this version makes of experiments that older versions stored, where a class or a field has another name now.

A field that is new and has a default needs no entry: where it is absent, it has its default.
"""

from collections.abc import Mapping
from typing import Any

CLASS = 'class'
PACKAGE = 'bigmodel_jax.'
# Module of configuration classes -> where it is now, both without the package.
MODULES = {
    'data.chat_templates': 'data.text.chat_templates',
    'data.csv_records': 'data.sources.csv_records',
    'data.images': 'data.vision.images',
    'data.instructions': 'data.text.instructions',
    'data.labelled': 'data.text.labelled',
    'data.masking': 'data.text.masking',
    'data.pairs': 'data.text.pairs',
    'data.parquet_records': 'data.sources.parquet_records',
    'data.pretrained_tokenizer': 'data.text.pretrained_tokenizer',
    'data.questions': 'data.text.questions',
    'data.sentence_pairs': 'data.text.sentence_pairs',
    'data.sources': 'data.sources.text_sources',
    'data.span_corruption': 'data.text.span_corruption',
    'data.tables': 'data.sources.tables',
    'data.tabular': 'data.tabular.tabular',
    'data.text': 'data.text.text',
    'data.tokenizers': 'data.text.tokenizers',
    'evaluate.answers': 'evaluate.text.answers',
    'evaluate.choices': 'evaluate.text.choices',
    'evaluate.classified': 'evaluate.text.classified',
    'evaluate.decoding': 'evaluate.text.decoding',
    'evaluate.maps': 'evaluate.text.maps',
    'evaluate.records': 'evaluate.text.task_records',
    'evaluate.samples': 'evaluate.text.samples',
    'evaluate.tasks': 'evaluate.text.tasks',
    'evaluate.translation': 'evaluate.text.translation',
    'evaluate.unigram': 'evaluate.text.unigram',
    'layers.plain': 'layers.attention',
    'optim.guards': 'optim.anomaly_policy',
    'sharding': 'parallel.sharding',
    'train.starting': 'train.initial_state',
}
# Class, as 'module:Class' of today's module -> its name now.
CLASSES: dict[str, str] = {'bigmodel_jax.train.initial_state:Checkpoint': 'bigmodel_jax.train.initial_state:FromRun'}
# Class, as it is called now -> field -> its name now; None for one that is gone and whose value has no effect any more.
FIELDS: dict[str, dict[str, str | None]] = {
    'bigmodel_jax.experiment:Experiment': {'start': 'initialization'},
    'bigmodel_jax.layers.blocks:Block': {'attention': 'mixer'},
    'bigmodel_jax.models.decoder:Decoder': {'alternates': 'interleaved'},
}
# Class, as it is called now -> field -> strings in its value -> what they are now.
VALUES: dict[str, dict[str, dict[str, str]]] = {
    'bigmodel_jax.layers.stacks:Stack': {'remat': {'stream': 'residual_stream', 'middle': 'post_mixer'}},
    'bigmodel_jax.parallel.sharding:MeshShape': {'rules': {'stream': 'residual_length'}},
}


EXPERIMENT = f'{PACKAGE}experiment:Experiment'
GRADIENTS = f'{PACKAGE}optim.gradients:'


def _gradients(stored: dict[str, Any]) -> dict[str, Any]:
    """The field `gradients` of an experiment, from the fields `microbatches` and `mesh.fixed_order` of older ones."""
    if 'gradients' in stored:
        return stored
    parts, mesh = stored.pop('microbatches', 1), dict(stored.get('mesh') or {})
    order = mesh.pop('fixed_order', None)
    if order is not None:
        method = {CLASS: f'{GRADIENTS}FixedOrder', 'parts': order, 'microbatches': parts}
    elif parts != 1:
        method = {CLASS: f'{GRADIENTS}Microbatches', 'parts': parts}
    else:
        method = {CLASS: f'{GRADIENTS}WholeBatch'}
    return stored | ({'mesh': mesh} if mesh else {}) | {'gradients': method}


def migrate(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of one config, without those inside it, as this version writes it."""
    if CLASS not in stored:
        return dict(stored)
    module, colon, rest = str(stored[CLASS]).partition(':')
    if module.startswith(PACKAGE):
        inside = module.removeprefix(PACKAGE)
        module = PACKAGE + MODULES.get(inside, inside)
    name = f'{module}{colon}{rest}'
    name = CLASSES.get(name, name)
    fields = FIELDS.get(name, {})
    kept = {fields.get(field, field): value for field, value in stored.items() if field != CLASS}
    changed = VALUES.get(name, {})
    found = {CLASS: name} | {
        field: _replaced(value, changed.get(field, {})) for field, value in kept.items() if field is not None
    }
    return _gradients(found) if name == EXPERIMENT else found


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """`value`, a string or lists of them, with the strings that have another name now replaced."""
    if isinstance(value, list | tuple):
        return [_replaced(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value
