"""The fields and defaults of the reference's configuration classes, for tests/oracles/reference_configs.json.

Needs the transformers package, which the tests do not:

  python tests/interop/reference_configs.py > tests/oracles/reference_configs.json

Of each family: 'fields' (name -> default as the class declares it), 'complete' (what an instance without arguments
writes to config.json), and 'aliases' (other name -> name).
"""

import dataclasses
import importlib
import json
from typing import Any

CLASSES = {
    'bert': 'BertConfig',
    'clip': 'CLIPConfig',
    'detr': 'DetrConfig',
    'gemma': 'GemmaConfig',
    'gemma2': 'Gemma2Config',
    'gemma3_text': 'Gemma3TextConfig',
    'gpt2': 'GPT2Config',
    'llama': 'LlamaConfig',
    'marian': 'MarianConfig',
    'mistral': 'MistralConfig',
    'mixtral': 'MixtralConfig',
    'phi3': 'Phi3Config',
    'qwen2': 'Qwen2Config',
    'qwen3': 'Qwen3Config',
    'resnet': 'ResNetConfig',
    't5': 'T5Config',
    'vit': 'ViTConfig',
}


def configurations() -> dict[str, Any]:
    """What the installed transformers has."""
    transformers = importlib.import_module('transformers')
    families = {name: _family(getattr(transformers, cls)) for name, cls in CLASSES.items()}
    generation = sorted(transformers.GenerationConfig._get_default_generation_params())
    return {'transformers': transformers.__version__, 'generation': generation, 'families': families}


def _family(cls: Any) -> dict[str, Any]:
    fields = {
        field.name: field.default if field.default is not dataclasses.MISSING else None
        for field in dataclasses.fields(cls)
    }
    complete = json.loads(cls().to_json_string(use_diff=False))
    complete.pop('transformers_version')
    return {'fields': fields, 'complete': complete, 'aliases': dict(cls.attribute_map)}


if __name__ == '__main__':
    print(json.dumps(configurations(), indent=1, sort_keys=True))
