"""What this version makes of experiments that older versions stored, where a class or a field has another name now.

A field that is new and has a default needs no entry: where it is absent, it has its default.
"""

from collections.abc import Callable, Mapping
from typing import Any

CLASS = 'class'
PACKAGE = 'bigmodel_jax.'
# Module of configuration classes -> where it is now, both without the package.
MODULES = {
    'data.chat_templates': 'data.text.chats.chat_templates',
    'data.text.chat_templates': 'data.text.chats.chat_templates',
    'data.csv_records': 'data.sources.csv_file',
    'data.sources.csv_records': 'data.sources.csv_file',
    'data.images': 'data.vision.images',
    'data.instructions': 'data.text.chats.instructions',
    'data.text.instructions': 'data.text.chats.instructions',
    'data.labelled': 'data.text.labelled',
    'data.masking': 'data.text.masking',
    'data.pairs': 'data.text.pairs',
    'data.parquet_records': 'data.sources.parquet',
    'data.sources.parquet_records': 'data.sources.parquet',
    'data.pretrained_tokenizer': 'data.text.pretrained.pretrained_tokenizer',
    'data.text.pretrained_tokenizer': 'data.text.pretrained.pretrained_tokenizer',
    'data.text.special_tokens': 'data.text.pretrained.special_tokens',
    'data.questions': 'data.text.questions',
    'data.sentence_pairs': 'data.text.sentence_pairs',
    'data.sources': 'data.sources.text_files',
    'data.sources.text_sources': 'data.sources.text_files',
    'data.span_corruption': 'data.text.span_corruption',
    'data.sources.tables': 'data.tables',
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
CLASSES: dict[str, str] = {
    'bigmodel_jax.data.records:JsonLines': 'bigmodel_jax.data.sources.json_lines:JsonLines',
    'bigmodel_jax.data.sources.text_files:Joined': 'bigmodel_jax.data.sources.combined:Joined',
    'bigmodel_jax.data.text.questions:SquadFile': 'bigmodel_jax.data.sources.squad_file:SquadFile',
    'bigmodel_jax.data.text.questions:TfdsQuestions': 'bigmodel_jax.data.sources.tfds:Tfds',
    'bigmodel_jax.evaluate.text.task_records:JsonRecords': 'bigmodel_jax.data.sources.json_lines:JsonLines',
    'bigmodel_jax.train.initial_state:Checkpoint': 'bigmodel_jax.train.initial_state:FromRun',
}
# Class, as it is called now -> field -> its name now; None for one that is gone and whose value has no effect any more.
FIELDS: dict[str, dict[str, str | None]] = {
    'bigmodel_jax.experiment:Experiment': {'start': 'initialization'},
    'bigmodel_jax.layers.blocks:Block': {'attention': 'mixer'},
    'bigmodel_jax.models.decoder:Decoder': {'alternates': 'interleaved'},
    'bigmodel_jax.data.tabular.tabular:Features': {'records': 'source', 'standardized_by': 'fitted_on'},
    'bigmodel_jax.data.text.chats.instructions:Instructions': {'records': 'source'},
    'bigmodel_jax.data.text.masking:Masking': {'most': 'max_predictions'},
}
# Class, as it is called now -> field -> strings in its value -> what they are now.
VALUES: dict[str, dict[str, dict[str, str]]] = {
    'bigmodel_jax.layers.stacks:Stack': {'remat': {'stream': 'residual_stream', 'middle': 'post_mixer'}},
    'bigmodel_jax.parallel.sharding:MeshShape': {'rules': {'stream': 'residual_length'}},
}


EXPERIMENT = f'{PACKAGE}experiment:Experiment'
GRADIENTS = f'{PACKAGE}optim.gradients:'


class UnknownShape(Exception):
    """A stored config does not have the fields that older versions stored, so that nothing can be made of it."""


def _value(stored: Mapping[str, Any], field: str) -> Any:
    if field not in stored:
        raise UnknownShape(field)
    return stored[field]


def _config(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or CLASS not in value:
        raise UnknownShape(CLASS)
    return value


def _list(value: Any, *, least: int = 0) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) < least:
        raise UnknownShape('a list')
    return list(value)


def _gradients(stored: dict[str, Any]) -> dict[str, Any]:
    """The field `gradients` of an experiment, from the fields `microbatches` and `mesh.fixed_order` of older ones."""
    if 'gradients' in stored:
        return stored
    mesh = stored.get('mesh') or {}
    if not isinstance(mesh, Mapping):
        raise UnknownShape('mesh')
    parts, mesh = stored.pop('microbatches', 1), dict(mesh)
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
    try:
        return RESHAPED[name](found) if name in RESHAPED else found
    except UnknownShape:
        return found  # Who reads it says which fields are missing or unknown.


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """`value`, a string or lists of them, with the strings that have another name now replaced."""
    if isinstance(value, list | tuple):
        return [_replaced(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


# ---- configs that have another shape now ----------------------------------------------------------------------------

Stored = dict[str, Any]
SOURCES = 'bigmodel_jax.data.sources.'
OLD_TABLES = 'bigmodel_jax.data.tables:'


def _only(stored: Mapping[str, Any], name: str, *fields: str) -> Stored:
    """Some fields, as those of the source class of that name."""
    return {CLASS: SOURCES + name} | {field: stored[field] for field in fields if field in stored}


def _text_of(stored: Stored, name: str, *fields: str) -> Stored:
    """A source that knew which field holds its text: now TextField around the source, unless that is `text`."""
    field, source = stored.get('field', 'text'), _only(stored, name, *fields)
    return source if field == 'text' else {CLASS: SOURCES + 'combined:TextField', 'source': source, 'field': field}


def _record_field(stored: Stored) -> Stored:
    return {
        CLASS: SOURCES + 'combined:TextField', 'source': _value(stored, 'records'), 'field': stored.get('field', 'text')
    }  # fmt: skip


def _table(stored: Any) -> tuple[Any, list[Any], Any]:
    """The source, the fields of the sentences and the field of the label of a table."""
    name = migrate(_config(stored))[CLASS].removeprefix(OLD_TABLES)
    if name == 'Tsv':
        sentences, label = stored.get('sentences', [0]), stored.get('label', 1)
        return _only(stored, 'tsv_file:Tsv', 'path', 'header'), sentences, label
    if name == 'TfdsTable':
        sentences, label = stored.get('sentences', ['sentence']), stored.get('label', 'label')
        return _only(stored, 'tfds:Tfds', 'name', 'split', 'data_dir'), sentences, label
    return _value(stored, 'records'), _value(stored, 'sentences'), _value(stored, 'label')


def _labelled(stored: Stored) -> Stored:
    if 'table' not in stored:
        return stored
    source, sentences, label = _table(stored['table'])
    kept = {name: value for name, value in stored.items() if name != 'table'}
    labels = kept.get('labels', [])
    kept['labels'] = _table(labels)[0] if isinstance(labels, Mapping) else labels
    return kept | {'source': source, 'sentences': sentences, 'label': label}


def _sentences(stored: Stored) -> Stored:
    source, sentences, _ = _table(_value(stored, 'table'))
    parts = [{CLASS: SOURCES + 'combined:TextField', 'source': source, 'field': field} for field in _list(sentences)]
    return parts[0] if len(parts) == 1 else {CLASS: SOURCES + 'combined:Joined', 'parts': parts}


def _images(stored: Stored) -> Stored:
    source, images = _value(stored, 'source'), 'bigmodel_jax.data.vision.'
    scaling = _config(stored.get('scaling', {CLASS: ''}))
    transforms = [{CLASS: images + 'transforms:Normalize'} | {k: v for k, v in scaling.items() if k != CLASS}]
    if not migrate(_config(source))[CLASS].startswith(images + 'images:'):
        return stored
    kept = {name: value for name, value in stored.items() if name != 'scaling'}
    if migrate(source)[CLASS].endswith(':Npz'):
        fields = {'image': source.get('images', 'images'), 'label': source.get('labels', 'labels')}
        return kept | {'source': _only(source, 'npz:Npz', 'path', 'part'), 'transforms': transforms, **fields}
    shape = _list(_value(stored, 'shape'), least=3)
    if source.get('resize'):
        transforms.insert(0, {CLASS: images + 'transforms:Resize', 'size': shape[:2]})
    folder = _only(source, 'image_folder:ImageFolder', 'path', 'part') | {'channels': shape[2]}
    return kept | {'source': folder, 'transforms': transforms}


# Class, as it is called now or was called last -> what makes of it what this version has instead.
RESHAPED: dict[str, Callable[[Stored], Stored]] = {
    SOURCES + 'text_files:Tfds': lambda stored: _text_of(stored, 'tfds:Tfds', 'name', 'split', 'data_dir'),
    SOURCES + 'text_files:JsonLines': lambda stored: _text_of(stored, 'json_lines:JsonLines', 'pattern', 'part'),
    SOURCES + 'text_files:RecordField': _record_field,
    OLD_TABLES + 'Sentences': _sentences,
    EXPERIMENT: _gradients,
    'bigmodel_jax.data.text.labelled:Labelled': _labelled,
    'bigmodel_jax.data.vision.images:Images': _images,
    'bigmodel_jax.evaluate.text.task_records:TfdsRecords': lambda stored: _only(
        _config(_value(stored, 'source')), 'tfds:Tfds', 'name', 'split', 'data_dir'
    ),
}
