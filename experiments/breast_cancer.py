"""Diagnosis from clinical measurements: whether a tumour of the breast is benign, from 30 numbers of its cells.

Question: how well does a small network tell benign from malignant tumours, and is it calibrated?
Source:   Wolberg et al. (1995); the data ships with scikit-learn: 569 tumours, 357 of them benign.
Target:   an area under the ROC curve of at least 0.99 on the 142 tumours that are held out, for each of five seeds.
          Class 1 is benign, so that specificity is the share of malignant tumours that are found.
Needs:    pip install scikit-learn
Run:      python -m bigmodel_jax train experiments/breast_cancer.py --workdir runs/breast_cancer
          python -m bigmodel_jax sweep experiments/breast_cancer.py --workdir runs/breast_cancer_seeds
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.sources import scikit_learn
from bigmodel_jax.data.tabular import tabular
from bigmodel_jax.evaluate import classes, loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import perceptron
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.requirement import Requirement
from bigmodel_jax.sweeps.sweep import Sweep

TRAIN, TEST = splits.both(held_out=0.25)
NAMES = ('malignant', 'benign')
SUBGROUPS = ('mean radius', 'mean texture')  # Up to the median and above it.


def tumours(part: splits.Subset, *, batch: int) -> tabular.Features:
    """Standardised by the mean and the deviation of the training part alone."""
    return tabular.Features(
        source=sources.ScikitLearn(name='breast_cancer', part=part),
        columns=scikit_learn.columns('breast_cancer'),
        label='label',
        batch=batch,
        fitted_on=sources.ScikitLearn(name='breast_cancer', part=TRAIN),
    )


def experiment(hidden: tuple[int, ...] = (32,)) -> Experiment:
    test = tumours(TEST, batch=72)
    return Experiment(
        name='breast_cancer',
        steps=400,
        data=tumours(TRAIN, batch=64),
        model=perceptron.Perceptron(hidden=hidden, classes=2, dropout=0.2),
        objective=classification.Classification(label_smoothing=0.02),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=5e-3, warmup_steps=20), weight_decay=0.1),
        evaluations=(
            loss.Loss(data=test, every_steps=100),
            classes.Classes(data=test, every_steps=400, names=NAMES, bins=10, subgroups=SUBGROUPS),
        ),
        checkpoints=Checkpoints(every_steps=400),
        requires=(Requirement('test/auc', at_least=0.99),),
    )


def sweep() -> Sweep:
    """A hidden layer against none, which is logistic regression; five seeds each."""
    arms = {
        'perceptron': vary(experiment(), {'name': 'perceptron'}),
        'logistic': vary(experiment(hidden=()), {'name': 'logistic'}),
    }
    return Sweep(arms=arms, baseline='logistic', metric='test/auc', seeds=(0, 1, 2, 3, 4))


def smoke() -> Experiment:
    """Seconds on a laptop: shows that the pieces fit."""
    tiny = {'steps': 20, 'optimizer.schedule.warmup_steps': 5, 'watch.log_every': 5}
    return vary(experiment(), tiny | {'evaluations.0.every_steps': 10, 'evaluations.1.every_steps': 20})


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
