"""Scores of predicted classes from their probabilities: errors, calibration, ROC, and intervals. NumPy and SciPy."""

from typing import NamedTuple

import numpy as np
from scipy import special, stats

LEVEL = 0.95  # Of every interval here.


class Bounded(NamedTuple):
    """An estimate and its 95% confidence interval."""

    value: float
    low: float
    high: float


def probabilities(logits_NV: np.ndarray) -> np.ndarray:
    """Their softmax, [N, V] float64."""
    return special.softmax(logits_NV.astype(np.float64), axis=-1)


def nll(logits_NV: np.ndarray, labels_N: np.ndarray) -> float:
    """The mean negative log-likelihood, in nats."""
    chosen_N = np.take_along_axis(special.log_softmax(logits_NV.astype(np.float64), axis=-1), labels_N[:, None], 1)
    return float(-chosen_N.mean())


def brier(found_NV: np.ndarray, labels_N: np.ndarray) -> float:
    """The mean squared distance of the probabilities from the truth (Brier, 1950, equation 2)."""
    truth_NV = np.eye(found_NV.shape[1])[labels_N]
    return float(np.square(found_NV - truth_NV).sum(axis=-1).mean())


def error(logits_NV: np.ndarray, labels_N: np.ndarray, *, top: int) -> float:
    """How many labels are not among the `top` highest logits, in %; of equal ones the first index wins."""
    chosen_N1 = np.take_along_axis(logits_NV, labels_N[:, None], 1)
    before_NV = (logits_NV == chosen_N1) & (np.arange(logits_NV.shape[1]) < labels_N[:, None])
    ranks_N = (logits_NV > chosen_N1).sum(axis=-1) + before_NV.sum(axis=-1)
    return float(100 * (ranks_N >= top).mean())


# ---- calibration ------------------------------------------------------------------------------------------------


class Calibration(NamedTuple):
    """Predictions in bins of equal width by their confidence; empty bins are left out."""

    confidence: np.ndarray  # [n] The mean of each bin.
    accuracy: np.ndarray  # [n]
    counts: np.ndarray  # [n]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of accuracy from confidence.

        Source: Guo et al. (2017), arXiv:1706.04599, equation 3.
        """
        return float((np.abs(self.accuracy - self.confidence) * self.counts).sum() / self.counts.sum())


def calibration(found_NV: np.ndarray, labels_N: np.ndarray, *, bins: int) -> Calibration:
    """How often the most probable class is right, by its probability."""
    confidence_N, right_N = found_NV.max(axis=-1), found_NV.argmax(axis=-1) == labels_N
    bin_N = np.minimum((confidence_N * bins).astype(int), bins - 1)
    counts = np.bincount(bin_N, minlength=bins)
    sums = [np.bincount(bin_N, weights=each, minlength=bins) for each in (confidence_N, right_N.astype(float))]
    kept = counts > 0
    return Calibration(sums[0][kept] / counts[kept], sums[1][kept] / counts[kept], counts[kept])


# ---- two classes ------------------------------------------------------------------------------------------------


def roc(scores_N: np.ndarray, positive_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The false and the true positive rate at every threshold, from the highest on, beginning with (0, 0)."""
    order = np.argsort(-scores_N, kind='stable')
    last = np.append(np.diff(scores_N[order]) != 0, True)  # Equal scores have one threshold.
    true, false = (np.cumsum(each[order])[last] for each in (positive_N, ~positive_N))
    return np.append(0, false) / (~positive_N).sum(), np.append(0, true) / positive_N.sum()


def auc(scores_N: np.ndarray, positive_N: np.ndarray) -> Bounded:
    """The area under the ROC curve; its interval is on the scale of the logit, so that it stays within (0, 1).

    The variance is that of DeLong et al. (1988); of a perfect separation, where it is 0, the interval has no width
    but for the bound that none of n pairs of an example of each class in the wrong order gives, 3 / n.
    """
    first, other = scores_N[positive_N], scores_N[~positive_N]
    both = stats.rankdata(np.concatenate([first, other]))
    of_first = (both[: len(first)] - stats.rankdata(first)) / len(other)  # How many of the other class are below.
    of_other = 1 - (both[len(first) :] - stats.rankdata(other)) / len(first)
    value = float(of_first.mean())
    if not 0 < value < 1:
        bound = min(3 / min(len(first), len(other)), 1.0)
        return Bounded(value, max(value - bound, 0.0), min(value + bound, 1.0))
    variance = sum(np.var(each, ddof=1) / len(each) if len(each) > 1 else 0.25 for each in (of_first, of_other))
    width = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance) / (value * (1 - value))
    low, high = special.expit(special.logit(value) + np.array([-width, width])).tolist()
    return Bounded(value, low, high)


def rate(successes: int, trials: int) -> Bounded:
    """A share of trials, with Wilson's interval; nan of none."""
    if not trials:
        return Bounded(np.nan, np.nan, np.nan)
    found = stats.binomtest(successes, trials).proportion_ci(LEVEL, method='wilson')
    return Bounded(successes / trials, float(found.low), float(found.high))


class ClassCounts(NamedTuple):
    """Of one class: how many rows are of it, predicted as it, and both."""

    actual: int
    predicted: int
    right: int

    @property
    def precision(self) -> Bounded:
        """How many of the rows that are predicted as this class are of it."""
        return rate(self.right, self.predicted)

    @property
    def recall(self) -> Bounded:
        """How many of the rows of this class are predicted as it."""
        return rate(self.right, self.actual)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; nan where both are."""
        total = self.actual + self.predicted
        return 2 * self.right / total if total else float('nan')


def confusion(labels_N: np.ndarray, predicted_N: np.ndarray, *, classes: int) -> np.ndarray:
    """[V, V] int64: row i has the rows of class i, by the class that is predicted."""
    return np.bincount(labels_N * classes + predicted_N, minlength=classes**2).reshape(classes, classes)


def by_class(matrix_VV: np.ndarray) -> tuple[ClassCounts, ...]:
    """The counts of each class of a confusion matrix."""
    sums = zip(matrix_VV.sum(axis=1).tolist(), matrix_VV.sum(axis=0).tolist(), np.diag(matrix_VV).tolist())
    return tuple(ClassCounts(*each) for each in sums)
