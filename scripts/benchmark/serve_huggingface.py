"""The other side of scripts/benchmark/serve.py --parts speed: the same model and prompts under transformers' generate.

Needs torch and transformers. Writes a GPT-2 of random weights and its prompts into DIR, then measures generate() for
one prompt, for some of them one after the other, and for all in one batch that is padded at the left.

Example, in an environment with transformers, then in that of this repository:
  python scripts/benchmark/serve_huggingface.py DIR
  python -m bigmodel_jax convert DIR runs/random
  python scripts/benchmark/serve.py runs/random --parts speed --prompts DIR/prompts.json
"""

import argparse
import json
import pathlib
import time

import numpy as np
import tokenizers
import torch
import transformers

VOCAB, LENGTH, WIDTH, LAYERS, HEADS = 8_192, 512, 512, 8, 8
LONGEST = 128  # Tokens of a prompt.


def make(folder: pathlib.Path, count: int) -> list[list[int]]:
    """Writes the model, a tokenizer of bytes and the prompts; returns these."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=LENGTH, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    letters = {'<|endoftext|>': 0} | {
        letter: number for number, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), 1)
    }
    model = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    model.pre_tokenizer, model.decoder = tokenizers.pre_tokenizers.ByteLevel(), tokenizers.decoders.ByteLevel()
    special = {'bos_token': '<|endoftext|>', 'eos_token': '<|endoftext|>', 'unk_token': '<|endoftext|>'}
    transformers.PreTrainedTokenizerFast(tokenizer_object=model, **special).save_pretrained(folder)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 257, int(rng.integers(8, LONGEST + 1))).tolist() for _ in range(count)]
    (folder / 'prompts.json').write_text(json.dumps(prompts))
    return prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('--tokens', type=int, default=64)
    parser.add_argument('--alone', type=int, default=16, help='prompts that are generated one after the other')
    parser.add_argument('--prompts', type=int, default=64)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    prompts = make(options.folder, options.prompts)
    model = transformers.GPT2LMHeadModel.from_pretrained(options.folder).eval()
    how = {'do_sample': True, 'min_new_tokens': options.tokens, 'max_new_tokens': options.tokens, 'pad_token_id': 0}

    def generate(some: list[list[int]]) -> float:
        width = max(map(len, some))
        ids = torch.tensor([[0] * (width - len(each)) + each for each in some])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in some])
        began = time.monotonic()
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=mask, **how)
        assert found.shape == (len(some), width + options.tokens)
        return time.monotonic() - began

    generate(prompts[:2])
    print(f'torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads')
    one = generate(prompts[:1])
    print(f'one alone: {options.tokens / one:.1f} tokens/s, {one:.2f} s')
    batch = generate(prompts)
    print(f'{len(prompts)} in one batch: {len(prompts) * options.tokens / batch:.1f} tokens/s, {batch:.2f} s for each')
    some = prompts[: options.alone]
    total = sum(generate([prompt]) for prompt in some)
    print(f'{len(some)} one after the other: {len(some) * options.tokens / total:.1f} tokens/s, {total:.2f} s')


if __name__ == '__main__':
    main()
