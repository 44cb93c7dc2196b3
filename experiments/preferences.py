"""From imitation to preference: a model copies words in two styles, and learns from pairs of answers to use one.

Question: does DPO move the style of the answers, and leave what they say as it was?
Source:   Rafailov et al. (2023), arXiv:2305.18290; the task is generated here: 'abcde' is answered by 'abcde' or by
          'ABCDE', each in half of the conversations that the model is first trained on. In the pairs 'ABCDE' is chosen.
Target:   none published. Of 200 other words, sampled at temperature 1: before, half of the answers in capitals; after,
          nearly all, with nearly as many words right as before. Measured (CPU, jax 0.10.2, seed 0): 43.5% in capitals
          and 95% right after fine_tuning(); 98% and 93% after experiment(). With beta=0.1 and a peak rate of 3e-4 all
          are in capitals and 13% are right: the chosen answers become less likely too, only less so than the others.
Run:      python -m bigmodel_jax train experiments/preferences.py:fine_tuning --workdir runs/fine_tuned
          python -m bigmodel_jax train experiments/preferences.py --arg start=runs/fine_tuned --workdir runs/preferences
Look:     python -m bigmodel_jax describe experiments/preferences.py --tokens 1     (which tokens carry loss)
          python -m bigmodel_jax sample runs/preferences --prompt hello
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data import records
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.chats import chat_templates, instructions, preferences
from bigmodel_jax.evaluate import evaluation, loss, metric, predictor
from bigmodel_jax.evaluate.text import decoding, generation
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.objectives import preferences as objectives
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.train import initial_state

LETTERS, WORD, LENGTH = 'abcdefghijklmnopqrstuvwxyz', 5, 64
PLAIN = chat_templates.Plain(user='', assistant='=', separator='')
MODEL = decoder.gpt(vocab=320, width=64, layers=2, heads=4, length=LENGTH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words(records.Source):
    """Random words: as conversations that repeat them in either style, or as pairs of which capitals are chosen."""

    count: config.Positive
    seed: config.Seed
    pairs: bool = False

    def open(self) -> records.Records:
        return records.RecordList('words', [self._record(i) for i in range(self.count)], config.to_json(self))

    def words(self) -> list[str]:
        return [self._word(i)[0] for i in range(self.count)]

    def _word(self, number: int) -> tuple[str, bool]:
        """A word, and whether its answer is in capitals."""
        digits = hashlib.sha256(f'{self.seed} {number}'.encode()).digest()
        return ''.join(LETTERS[digit % len(LETTERS)] for digit in digits[:WORD]), digits[WORD] % 2 == 1

    def _record(self, number: int) -> dict[str, str]:
        word, capitals = self._word(number)
        if self.pairs:
            return {'prompt': word, 'chosen': word.upper(), 'rejected': word}
        return {'prompt': word, 'completion': word.upper() if capitals else word}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers(evaluation.Evaluation):
    """How many answers are in capitals, and how many are the right word in either style."""

    words: Words
    every_steps: config.Positive
    name: str = 'answers'

    def metrics(self, of: Any, measured: evaluation.MeasuredNames) -> Mapping[str, metric.Definition]:
        return {'capitals': metric.Definition('higher', '%'), 'right': metric.Definition('higher', '%')}

    def build(self, setting: evaluation.EvaluationContext) -> evaluation.Evaluator:
        return AnswersEvaluator(self, setting)


class AnswersEvaluator(evaluation.Evaluator):
    """Lets the model answer."""

    def __init__(self, answers: Answers, setting: evaluation.EvaluationContext):
        self._answers, self._setting = answers, setting
        self._tokenizer = setting.need_tokenizer(answers.name)

    def run(self, params: Any, model_state: Any) -> evaluation.EvaluationResult:
        setting, words = self._setting, self._answers.words.words()
        encode = predictor.prompt_encoder(setting.data, self._tokenizer, template=True)
        found = generation.generate(
            setting.model, params, self._tokenizer, words, tokens=WORD + 1, how=decoding.Sampling(), seed=setting.seed,
            encode=encode, model_state=model_state, place=setting.place,
        )  # fmt: skip
        shares = {
            'capitals': sum(text.isupper() for text in found) / len(found),
            'right': sum(text.lower() == word for text, word in zip(found, words)) / len(found),
        }
        known = self._answers.metrics(None, lambda data: ())
        return evaluation.EvaluationResult({name: known[name].measured(100 * share) for name, share in shares.items()})


def fine_tuning() -> Experiment:
    """Supervised fine-tuning: conversations in both styles, the loss on the answers alone."""
    data = instructions.Instructions(
        source=Words(count=20_000, seed=0), tokenizer=tokenizers.Bytes(), batch=32, length=LENGTH, template=PLAIN
    )
    return Experiment(
        name='fine_tuning',
        steps=600,
        data=data,
        model=MODEL,
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=3e-3, warmup_steps=50)),
        evaluations=(
            loss.Loss(data=config.vary(data, {'source': Words(count=500, seed=2)}), every_steps=200),
            Answers(words=Words(count=200, seed=3), every_steps=600),
        ),
    )


def experiment(start: str = 'runs/fine_tuned') -> Experiment:
    """DPO from the weights of a run, which are the reference too."""
    data = preferences.Preferences(
        source=Words(count=2_000, seed=1, pairs=True), tokenizer=tokenizers.Bytes(), batch=32, length=LENGTH,
        template=PLAIN,
    )  # fmt: skip
    return Experiment(
        name='preferences',
        steps=100,
        data=data,
        model=MODEL,
        objective=objectives.Dpo(beta=1.0),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-4, warmup_steps=10)),
        initialization=initial_state.FromRun(run=start),
        evaluations=(
            loss.Loss(data=config.vary(data, {'source': Words(count=500, seed=2, pairs=True)}), every_steps=50),
            Answers(words=Words(count=200, seed=3), every_steps=50),
        ),
    )


def smoke() -> Experiment:
    """Seconds: DPO from random weights, which shows that the pieces fit."""
    tiny = {
        'initialization': None, 'steps': 4, 'data.batch': 8, 'data.source.count': 16,
        'model': decoder.gpt(vocab=320, width=16, layers=1, heads=1, length=LENGTH),
        'optimizer.schedule.warmup_steps': 2, 'evaluations.0.every_steps': 4, 'evaluations.0.data.source.count': 8,
        'evaluations.1.every_steps': 4, 'evaluations.1.words.count': 4,
    }  # fmt: skip
    return config.vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
