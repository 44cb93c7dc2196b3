#!/usr/bin/env python
"""What transformers and peft make of models and adapters. peft_both_ways.py starts it, in their environment.

python scripts/interop/peft_package.py write OUT    random bases, and adapters of them that PEFT saved, with logits
python scripts/interop/peft_package.py read OUT     loads our adapters, and saves them again, with logits
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np
import peft
import torch
import transformers

SIZES = {'vocab_size': 320, 'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 2, 'pad_token_id': None}
HEADS = {'num_attention_heads': 4, 'num_key_value_heads': 2, 'bos_token_id': None, 'eos_token_id': None}
GPT2 = {
    'vocab_size': 320, 'n_positions': 64, 'n_embd': 32, 'n_layer': 2, 'n_head': 4, 'bos_token_id': None,
    'eos_token_id': None,
}  # fmt: skip
ALL = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
# Name -> class, fields of its configuration, and how it is adapted.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    'gpt2': (
        'GPT2LMHeadModel', GPT2,
        {'r': 4, 'lora_alpha': 12, 'target_modules': ['c_attn', 'c_proj'], 'fan_in_fan_out': True},
    ),
    'llama': ('LlamaForCausalLM', SIZES | HEADS, {'r': 3, 'lora_alpha': 6, 'target_modules': ALL}),
    'qwen3': (
        'Qwen3ForCausalLM', SIZES | HEADS | {'head_dim': 8},
        {'r': 8, 'lora_alpha': 4, 'target_modules': ['q_proj', 'v_proj'], 'use_rslora': True},
    ),
}  # fmt: skip


def write(out: pathlib.Path) -> None:
    for number, (name, (cls, values, how)) in enumerate(CASES.items()):
        torch.manual_seed(number)
        base = getattr(transformers, cls)
        model = base(base.config_class(**values))
        model.save_pretrained(out / name / 'base')
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type='CAUSAL_LM', **how))
        for factor in [each for key, each in adapted.named_parameters() if 'lora_B' in key]:
            torch.nn.init.normal_(factor, std=0.1)  # Zeros would hide an adapter that is lost.
        adapted.save_pretrained(out / name / 'theirs')
        np.save(out / name / 'theirs.npy', logits(adapted, out))


def read(out: pathlib.Path) -> None:
    for name, (cls, _, _) in CASES.items():
        model = getattr(transformers, cls).from_pretrained(out / name / 'base')
        adapted = peft.PeftModel.from_pretrained(model, out / name / 'ours')
        adapted.save_pretrained(out / name / 'ours_again')
        np.save(out / name / 'ours.npy', logits(adapted, out))
        with adapted.disable_adapter():
            np.save(out / name / 'base.npy', logits(adapted, out))


def logits(model: Any, out: pathlib.Path) -> np.ndarray:
    """[B, T, V] in float64, of the inputs that are in the directory."""
    with torch.no_grad():
        found: np.ndarray = (
            model.double().eval()(input_ids=torch.from_numpy(np.load(out / 'inputs.npy'))).logits.numpy()
        )
    return found


if __name__ == '__main__':
    {'write': write, 'read': read}[sys.argv[1]](pathlib.Path(sys.argv[2]))
    print(json.dumps({each.__name__: each.__version__ for each in (peft, torch, transformers)}))
