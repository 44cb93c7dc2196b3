"""Small models of many families as transformers computes them, for tests/oracles/families.npz.

Needs the transformers and torch packages, which the tests do not:

  python tests/interop/reference_models.py tests/oracles/families.npz

Weights follow from the names of the tensors (hashed.py), so that the file holds the config.json, the shapes, some
inputs, the outputs in float64, two numbers for each gradient in float64, and what is generated greedily.
"""

import contextlib
import importlib
import json
import pathlib
import sys
import tempfile
from typing import Any

import hashed
import numpy as np

ROWS, LENGTH, VOCAB = 2, 8, 23
SIZES = {
    'vocab_size': VOCAB, 'hidden_size': 16, 'intermediate_size': 20, 'num_hidden_layers': 2,
    'num_attention_heads': 4, 'num_key_value_heads': 2, 'max_position_embeddings': 64,
    'bos_token_id': None, 'eos_token_id': None, 'pad_token_id': None,
}  # fmt: skip
BERT = {
    'vocab_size': VOCAB, 'hidden_size': 12, 'intermediate_size': 20, 'num_hidden_layers': 2, 'num_attention_heads': 3,
    'max_position_embeddings': 16, 'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0,
}  # fmt: skip
GEMMA = SIZES | {'head_dim': 6}
PHI = SIZES | {
    'num_attention_heads': 2,
    'rope_parameters': {
        'rope_type': 'longrope', 'short_factor': [1.0, 1.25, 1.5], 'long_factor': [1.0, 2.5, 7.0],
        'rope_theta': 1e2, 'partial_rotary_factor': 0.75,
    },
}  # fmt: skip
FULL, SLIDING = 'full_attention', 'sliding_attention'
LAST_TOKEN = ('llama_sequence', 'gpt2_number', 'gemma3_several')  # Decoders that classify rows.
# Name -> class, and the fields of its configuration; every family with the options that make it different.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    'llama_biased_linear': (
        'LlamaForCausalLM',
        SIZES | {'attention_bias': True, 'rope_parameters': {'rope_type': 'linear', 'factor': 2.5, 'rope_theta': 5e5}},
    ),
    'llama_tied_llama3': (
        'LlamaForCausalLM',
        SIZES
        | {
            'tie_word_embeddings': True,
            'head_dim': 8,
            'rope_parameters': {
                'rope_type': 'llama3', 'factor': 4.0, 'low_freq_factor': 1.0, 'high_freq_factor': 3.0,
                'original_max_position_embeddings': 16, 'rope_theta': 100.0,
            },
        },
    ),
    'mistral_windowed': ('MistralForCausalLM', SIZES | {'sliding_window': 3}),
    'mistral_whole': ('MistralForCausalLM', SIZES | {'sliding_window': None, 'num_key_value_heads': 4}),
    'qwen2': ('Qwen2ForCausalLM', SIZES | {'tie_word_embeddings': True}),
    'qwen2_windowed': (
        'Qwen2ForCausalLM',
        SIZES | {'num_hidden_layers': 3, 'use_sliding_window': True, 'sliding_window': 3, 'max_window_layers': 1},
    ),
    'qwen3': ('Qwen3ForCausalLM', SIZES | {'head_dim': 8, 'rms_norm_eps': 1e-3}),
    'qwen3_biased': ('Qwen3ForCausalLM', SIZES | {'head_dim': 6, 'attention_bias': True, 'tie_word_embeddings': True}),
    'gemma': ('GemmaForCausalLM', GEMMA | {'num_key_value_heads': 1}),
    'gemma2': (
        'Gemma2ForCausalLM',
        GEMMA
        | {
            'num_hidden_layers': 3, 'sliding_window': 3, 'query_pre_attn_scalar': 7,
            'attn_logit_softcapping': 2.0, 'final_logit_softcapping': 3.0,
        },
    ),
    'gemma3': (
        'Gemma3ForCausalLM',
        GEMMA
        | {
            'num_hidden_layers': 3, 'sliding_window': 3, 'sliding_window_pattern': 2, 'query_pre_attn_scalar': 9,
            'final_logit_softcapping': 4.0,
            'rope_parameters': {
                FULL: {'rope_type': 'linear', 'factor': 3.0, 'rope_theta': 1e4},
                SLIDING: {'rope_type': 'default', 'rope_theta': 1e2},
            },
        },
    ),
    'phi3': (
        'Phi3ForCausalLM',
        SIZES
        | {
            'sliding_window': 5,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e3, 'partial_rotary_factor': 0.5},
        },
    ),
    'llama_yarn': (
        'LlamaForCausalLM',
        SIZES
        | {
            'head_dim': 12,
            'rope_parameters': {
                'rope_type': 'yarn', 'factor': 4.0, 'beta_fast': 4.0, 'original_max_position_embeddings': 64,
                'rope_theta': 50.0,
            },
        },
    ),
    'qwen2_yarn': (
        'Qwen2ForCausalLM',
        SIZES
        | {
            'num_attention_heads': 2,
            'rope_parameters': {
                'rope_type': 'yarn', 'factor': 3.0, 'beta_fast': 8.0, 'beta_slow': 2.0, 'truncate': False,
                'mscale': 0.8, 'mscale_all_dim': 0.4, 'original_max_position_embeddings': 40, 'rope_theta': 30.0,
            },
        },
    ),
    # Rows of up to, and of more than, original_max_position_embeddings.
    'phi3_longrope': ('Phi3ForCausalLM', PHI | {'original_max_position_embeddings': 24}),
    'phi3_longrope_beyond': ('Phi3ForCausalLM', PHI | {'original_max_position_embeddings': 6}),
    'marian_unequal': (
        'MarianMTModel',
        {
            'vocab_size': VOCAB, 'd_model': 12, 'encoder_layers': 1, 'decoder_layers': 2, 'encoder_attention_heads': 3,
            'decoder_attention_heads': 2, 'encoder_ffn_dim': 20, 'decoder_ffn_dim': 14, 'max_position_embeddings': 16,
            'activation_function': 'swish', 'scale_embedding': True, 'pad_token_id': 0, 'decoder_start_token_id': 3,
            'eos_token_id': None, 'forced_eos_token_id': None, 'static_position_embeddings': True,
            'dropout': 0.0, 'attention_dropout': 0.0, 'activation_dropout': 0.0,
        },
    ),
    'bert_sequence': ('BertForSequenceClassification', BERT | {'num_labels': 3}),
    'bert_several': (
        'BertForSequenceClassification', BERT | {'num_labels': 3, 'problem_type': 'multi_label_classification'},
    ),
    'bert_regression': ('BertForSequenceClassification', BERT | {'num_labels': 1}),
    'llama_sequence': ('LlamaForSequenceClassification', SIZES | {'num_labels': 3, 'pad_token_id': 0}),
    'gpt2_number': (
        'GPT2ForSequenceClassification',
        {
            'vocab_size': VOCAB, 'n_embd': 12, 'n_layer': 1, 'n_head': 3, 'n_positions': 16, 'num_labels': 1,
            'resid_pdrop': 0.0, 'embd_pdrop': 0.0, 'attn_pdrop': 0.0, 'pad_token_id': 0,
            'bos_token_id': None, 'eos_token_id': None,
        },
    ),
    'gemma3_several': (
        'Gemma3TextForSequenceClassification',
        GEMMA
        | {
            'num_hidden_layers': 3, 'sliding_window': 3, 'sliding_window_pattern': 2, 'query_pre_attn_scalar': 9,
            'num_labels': 3, 'problem_type': 'multi_label_classification', 'pad_token_id': 0,
        },
    ),
    'bert_tokens': ('BertForTokenClassification', BERT | {'num_labels': 5}),
    'bert_answers': ('BertForQuestionAnswering', BERT),
}  # fmt: skip
BUFFER = 'final_logits_bias'  # Of Marian, which the reference does not train.
STREAMS = ('gemma3',)  # Whose hidden states are kept too.


def inputs(name: str) -> dict[str, np.ndarray]:
    """Two rows, the second of them padded; token 0, which some families do not train, is not among them."""
    ids_BT = (1 + (hashed.uniform('inputs', (ROWS, LENGTH)) + 1) / 2 * (VOCAB - 1)).astype(np.int64)
    mask_BT = np.ones_like(ids_BT)
    mask_BT[1, 6:] = 0
    if name in LAST_TOKEN:
        ids_BT = np.where(mask_BT > 0, ids_BT, 0)  # Padding, which the reference finds by itself.
    targets = {
        'marian_unequal': {'labels': np.roll(ids_BT, 3, axis=1)},
        'bert_sequence': {'labels': np.array([2, 0])},
        'bert_several': {'labels': np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])},
        'llama_sequence': {'labels': np.array([1, 2])},
        'gpt2_number': {'labels': np.array([0.25, 2.0])},
        'gemma3_several': {'labels': np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])},
        'bert_regression': {'labels': np.array([0.75, -1.5])},
        'bert_tokens': {'labels': np.where(mask_BT > 0, ids_BT % 5, -100)},
        'bert_answers': {'start_positions': np.array([2, 1]), 'end_positions': np.array([5, 99])},
    }
    words = {'labels': np.where(mask_BT > 0, ids_BT, -100)}
    # Padding is none of the labels of an encoder and a decoder: the reference keeps its row from learning.
    return {'input_ids': ids_BT, 'attention_mask': mask_BT, **targets.get(name, words)}


def recorded(name: str) -> dict[str, np.ndarray]:
    """All arrays of a case."""
    torch, transformers = (importlib.import_module(each) for each in ('torch', 'transformers'))
    cls_name, values = CASES[name]
    cls = getattr(transformers, cls_name)
    given = cls.config_class(**values, attn_implementation='eager')
    with tempfile.TemporaryDirectory() as folder:
        shapes = _drawn(cls(given), pathlib.Path(folder))
        written = json.loads((pathlib.Path(folder) / 'config.json').read_text())
        batch = inputs(name)
        tensors = {key: torch.from_numpy(array) for key, array in batch.items()}
        single = cls.from_pretrained(folder, attn_implementation='eager', dtype=torch.float32).eval()
        with torch.no_grad():
            rounded = _scores(single(**{key: _single(torch, each) for key, each in tensors.items()}))
            made = (
                single.generate(tensors['input_ids'], max_new_tokens=8, do_sample=False)
                if single.can_generate()
                else None
            )
        with _float64(torch):
            model = cls.from_pretrained(folder, attn_implementation='eager', dtype=torch.float64).eval()
            out = model(**tensors, output_hidden_states=True)
            out.loss.backward()
    exact = _scores(out)
    per_token = next(iter(exact.values())).shape[:2] == batch['attention_mask'].shape
    counted = batch['attention_mask'] > 0 if per_token else ...
    off = max(float(np.abs(rounded[key] - array)[counted].max()) for key, array in exact.items())
    largest = max(float(np.abs(array).max()) for array in rounded.values())
    found = {f'in/{key}': array for key, array in batch.items()}
    found |= {f'out64/{key}': array for key, array in exact.items()} | {'out64/loss': out.loss.detach().numpy()}
    if name in STREAMS:
        found |= {f'out64/hidden_states/{i}': each.detach().numpy() for i, each in enumerate(out.hidden_states)}
    found |= {
        'tolerance/float32': np.array(max(2e-5 * largest, 20 * off)),
        'tolerance/float64': np.array(1e-9 * max(largest, 1.0)),
    }
    found |= {} if made is None else {'generated': made.numpy()}
    names = {id(parameter): key for key, parameter in model.named_parameters()}  # Tied ones by the first name.
    gradients = {names[id(each)]: each.grad.numpy() for each in model.parameters() if each.grad is not None}
    assert shapes.keys() - gradients.keys() <= {BUFFER}
    probed = {key: hashed.probe(key, gradient) for key, gradient in gradients.items()}
    found['gradients'] = np.stack([probed.get(key, np.full(2, np.nan)) for key in shapes])
    # As bytes, which are compressed better than text.
    found['meta'] = np.frombuffer(json.dumps({'config': written, 'shapes': shapes}).encode(), np.uint8)
    return found


def _scores(out: Any) -> dict[str, np.ndarray]:
    names = [name for name in ('logits', 'start_logits', 'end_logits') if name in out]
    return {name: out[name].detach().numpy() for name in names}


def _single(torch: Any, tensor: Any) -> Any:
    return tensor.float() if tensor.dtype is torch.float64 else tensor


def _drawn(model: Any, folder: pathlib.Path) -> dict[str, list[int]]:
    """Saves the model with drawn weights; returns the shapes in its file."""
    model.save_pretrained(folder)
    numpy = importlib.import_module('safetensors.numpy')
    kept = numpy.load_file(folder / 'model.safetensors')
    shapes = {key: list(array.shape) for key, array in kept.items() if 'embed_positions' not in key}  # A formula.
    numpy.save_file(hashed.weights(shapes), folder / 'model.safetensors', metadata={'format': 'pt'})
    return shapes


@contextlib.contextmanager
def _float64(torch: Any) -> Any:
    """Nothing is rounded to float32, which the library does in norms, softmax and rotary positions."""
    functional = torch.nn.functional
    kept = {name: getattr(torch, name) for name in ('arange', 'tensor', 'softmax')}
    to, single, double = torch.Tensor.to, torch.float32, torch.float64
    softmax, as_float = functional.softmax, torch.Tensor.float

    def raised(value: Any) -> Any:
        return double if value is single else value

    def calling(function: Any) -> Any:
        return lambda *a, **k: function(*map(raised, a), **{name: raised(value) for name, value in k.items()})

    torch.set_default_dtype(double)
    torch.Tensor.to, torch.Tensor.float, functional.softmax = (
        calling(to),
        lambda self: to(self, double),
        calling(softmax),
    )
    for name, function in kept.items():
        setattr(torch, name, calling(function))
    try:
        yield
    finally:
        torch.set_default_dtype(single)
        torch.Tensor.to, torch.Tensor.float, functional.softmax = to, as_float, softmax
        for name, function in kept.items():
            setattr(torch, name, function)


if __name__ == '__main__':
    every = {f'{name}/{key}': array for name in CASES for key, array in recorded(name).items()}
    np.savez_compressed(sys.argv[1], **every)
