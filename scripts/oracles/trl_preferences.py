"""Losses and gradients of TRL's DPOTrainer in float64, for tests/oracles/trl_preferences.

A GPT-2 of two small layers is the policy, and the same with its weights times SCALE the reference. TRL builds the
batches, the masks, the reference's log-probabilities, the losses and their gradients.

Needs:  an environment with torch, transformers and trl; the recorded figures are of trl 1.16.0 with torch 2.13.0 and
        transformers 5.24.0
Run:    python scripts/oracles/trl_preferences.py tests/oracles/trl_preferences
"""

import json
import pathlib
import sys
import tempfile
from typing import Any

import datasets
import numpy as np
import tokenizers
import torch
import transformers
import trl
from trl.trainer import utils

VOCAB, END, SCALE, BETA = 32, 31, 1.25, 0.3
# Prompt, chosen, rejected.
PAIRS = (
    ([3, 4, 5], [6, 7], [8, 9, 10, 11]),
    ([12], [13, 14, 15, 16, 17], [18]),
    ([19, 20, 21, 22, 3], [4], [4, 5]),
    ([7, 7], [1, 2, 3], [1, 2, 9]),
)


class PlainLogProbabilities:
    """In place of TRL's fused kernel, which computes in float32: the same by log_softmax, in the dtype of the model."""

    @staticmethod
    def apply(hidden: Any, weight: Any, bias: Any, labels: Any, *rest: Any) -> tuple[Any, ...]:
        """Log-probabilities of the labels, three outputs that no loss here uses, and whether each is the likeliest."""
        logits = torch.nn.functional.linear(hidden, weight, bias)
        chosen = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
        return chosen, *[torch.zeros(len(labels))] * 3, logits.argmax(-1) == labels


def tokenizer() -> Any:
    """The words t0 to t31 are the tokens 0 to 31."""
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({f't{i}': i for i in range(VOCAB)}, unk_token='t0'))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token=f't{END}', pad_token='t0')


def words(ids: list[int]) -> str:
    return ''.join(f' t{i}' for i in ids)


def models() -> tuple[Any, Any]:
    """The policy and the reference, in float64."""
    torch.manual_seed(0)
    settings = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=16, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5, bos_token_id=END,
        eos_token_id=END,
    )  # fmt: skip
    policy, reference = (transformers.GPT2LMHeadModel(settings).double() for _ in range(2))
    with torch.no_grad():
        for mine, theirs in zip(reference.parameters(), policy.parameters()):
            mine.copy_(SCALE * theirs)
    return policy, reference


def recorded(kind: str, policy: Any, reference: Any) -> dict[str, Any]:
    """The loss of this kind, the rewards and the gradient of every parameter."""
    rows = [dict(zip(('prompt', 'chosen', 'rejected'), map(words, pair))) for pair in PAIRS]
    with tempfile.TemporaryDirectory() as scratch:
        settings = trl.DPOConfig(
            output_dir=scratch, loss_type=[kind], beta=BETA, per_device_train_batch_size=len(PAIRS), bf16=False,
            use_cpu=True, report_to=[], max_length=None, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = trl.DPOTrainer(
            model=policy, ref_model=reference, args=settings, train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer(),
        )  # fmt: skip
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
        policy.train()
        policy.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
    assert loss.dtype == torch.float64
    rewards = {name: np.float64(value[-1]) for name, value in trainer._metrics['train'].items() if 'rewards' in name}
    gradients = {f'grad/{name}': each.grad.numpy().copy() for name, each in policy.named_parameters()}
    return {'loss': loss.detach().numpy(), **rewards, **gradients}


def main(folder: pathlib.Path) -> None:
    """Writes the policy, the pairs and what TRL makes of them."""
    utils._ChunkedLogProbFunction = PlainLogProbabilities
    folder.mkdir(parents=True, exist_ok=True)
    policy, reference = models()
    policy.save_pretrained(folder)
    (folder / 'generation_config.json').unlink(missing_ok=True)
    (folder / 'pairs.json').write_text(json.dumps(PAIRS))
    found = {kind: recorded(kind, policy, reference) for kind in ('sigmoid', 'ipo')}
    arrays = {f'{kind}/{name}': value for kind, each in found.items() for name, value in each.items()}
    np.savez_compressed(folder / 'trl.npz', **arrays)


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
