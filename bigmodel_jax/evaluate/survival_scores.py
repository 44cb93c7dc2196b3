"""Scores of predicted risks against times, some of which are censored: concordance, Kaplan-Meier, baseline. NumPy."""

import math

import numpy as np
from scipy import special, stats

from bigmodel_jax.evaluate.class_scores import LEVEL, Bounded

Z = float(stats.norm.ppf((1 + LEVEL) / 2))


def concordance(risks_N: np.ndarray, times_N: np.ndarray, events_N: np.ndarray) -> Bounded:
    """How often, of two rows of which one is known to have had the event before the other, it has the higher risk.

    Equal risks count one half; pairs whose order is not known do not count. nan if there is none. The interval is that
    of the infinitesimal jackknife over rows, on the scale of the logit.

    Source: Harrell et al. (1996), section 5.5; Efron and Stein (1981) for the variance.
    """
    earlier_NN = (times_N[:, None] < times_N[None, :]) & events_N[:, None]
    # Of equal times, an event is known to be before a row that was still observed without it.
    earlier_NN |= (times_N[:, None] == times_N[None, :]) & events_N[:, None] & ~events_N[None, :]
    higher_NN = risks_N[:, None] > risks_N[None, :]
    right_NN = earlier_NN * (higher_NN + 0.5 * (risks_N[:, None] == risks_N[None, :]))
    pairs = int(earlier_NN.sum())
    if not pairs:
        return Bounded(math.nan, math.nan, math.nan)
    value = float(right_NN.sum() / pairs)
    if not 0 < value < 1:
        bound = min(3 / len(times_N), 1.0)
        return Bounded(value, max(value - bound, 0.0), min(value + bound, 1.0))
    influence_N = (right_NN - value * earlier_NN).sum(axis=0) + (right_NN - value * earlier_NN).sum(axis=1)
    deviation = float(np.sqrt(np.square(influence_N / pairs).sum()))
    width = Z * deviation / (value * (1 - value))
    low, high = special.expit(special.logit(value) + np.array([-width, width])).tolist()
    return Bounded(value, low, high)


def kaplan_meier(times_N: np.ndarray, events_N: np.ndarray, horizon: float) -> Bounded:
    """The share without the event by `horizon`; nan where nobody was observed so long and some without it.

    Source: Kaplan and Meier (1958); the interval is that of log(-log) with Greenwood's variance (Kalbfleisch and
    Prentice, 1980, section 1.3).
    """
    share, variance = 1.0, 0.0
    for time in np.unique(times_N[events_N & (times_N <= horizon)]):
        at_risk, events = int((times_N >= time).sum()), int((events_N & (times_N == time)).sum())
        share *= 1 - events / at_risk
        variance += events / (at_risk * (at_risk - events)) if at_risk > events else 0.0
    if not len(times_N) or (share > 0 and times_N.max() < horizon):
        return Bounded(math.nan, math.nan, math.nan)
    if not 0 < share < 1:
        bound = 3 / len(times_N)  # That none of n had it, or all.
        return Bounded(share, max(share - bound, 0.0), min(share + bound, 1.0))
    width = Z * math.sqrt(variance) / math.log(share)
    return Bounded(share, share ** math.exp(-width), share ** math.exp(width))


def baseline_hazard(risks_N: np.ndarray, times_N: np.ndarray, events_N: np.ndarray, horizon: float) -> float:
    """The cumulative hazard by `horizon` of a row whose risk is 0, by the rows that a model was trained on.

    Source: Breslow (1972), in the discussion of Cox (1972).
    """
    hazard_N = np.exp(risks_N)
    early_N = events_N & (times_N <= horizon)
    return float(sum(1 / hazard_N[times_N >= time].sum() for time in times_N[early_N]))


def survival(risks_N: np.ndarray, baseline: float) -> np.ndarray:
    """The predicted share without the event, [N], by the horizon of `baseline`."""
    return np.exp(-baseline * np.exp(risks_N))


def brier(predicted_N: np.ndarray, times_N: np.ndarray, events_N: np.ndarray, horizon: float) -> float:
    """The mean squared distance of the predicted survival from 0 or 1, rows weighted for those that were censored.

    Source: Graf et al. (1999), equation 6.
    """
    total = 0.0
    for predicted, time, event in zip(predicted_N.tolist(), times_N.tolist(), events_N.tolist()):
        if time <= horizon and event:
            observed = _observed_until(times_N, events_N, time, inclusive=False)
            total += predicted**2 / observed
        elif time > horizon:
            total += (1 - predicted) ** 2 / _observed_until(times_N, events_N, horizon, inclusive=True)
    return total / len(times_N)


def _observed_until(times_N: np.ndarray, events_N: np.ndarray, time: float, *, inclusive: bool) -> float:
    """The share that is not censored by `time`: Kaplan and Meier's, with the parts of the two exchanged."""
    share = 1.0
    ends = np.unique(times_N[~events_N])
    for end in ends[ends <= time] if inclusive else ends[ends < time]:
        # A row whose event came at the same time is not censored then.
        at_risk = int((times_N > end).sum() + ((times_N == end) & ~events_N).sum())
        share *= 1 - int(((times_N == end) & ~events_N).sum()) / at_risk
    return share if share > 0 else math.nan
