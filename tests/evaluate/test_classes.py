"""Scores of classes against scikit-learn and by hand; what is shown; what has no meaning."""

import math

import numpy as np
import pytest

from bigmodel_jax.evaluate import class_scores, classes

RANDOM = np.random.default_rng(0)
LABELS_N = RANDOM.integers(0, 7, 300)
LOGITS_NV = (RANDOM.normal(size=(300, 7)) + 1.5 * np.eye(7)[LABELS_N]).astype(np.float32)


def test_errors_and_probabilities_are_those_of_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    found = classes.scores(LOGITS_NV, LABELS_N, bins=15)
    probabilities_NV = class_scores.probabilities(LOGITS_NV)
    accuracy = [metrics.top_k_accuracy_score(LABELS_N, LOGITS_NV, k=k) for k in (1, 5)]
    np.testing.assert_allclose([found['error'], found['top5_error']], [100 * (1 - each) for each in accuracy])
    np.testing.assert_allclose(found['nll'], metrics.log_loss(LABELS_N, probabilities_NV))
    truth_NV = np.eye(7)[LABELS_N]
    np.testing.assert_allclose(found['brier'], np.square(probabilities_NV - truth_NV).sum() / 300)
    matrix_VV = class_scores.confusion(LABELS_N, LOGITS_NV.argmax(1), classes=7)
    np.testing.assert_array_equal(matrix_VV, metrics.confusion_matrix(LABELS_N, LOGITS_NV.argmax(1)))
    ours = np.array([(of.precision.value, of.recall.value, of.f1) for of in class_scores.by_class(matrix_VV)])
    theirs = metrics.precision_recall_fscore_support(LABELS_N, LOGITS_NV.argmax(1))[:3]
    np.testing.assert_allclose(ours.T, theirs)


def test_equal_logits_are_no_hit_for_all_of_them():
    assert class_scores.error(np.zeros((4, 7)), np.arange(4), top=1) == 75
    assert class_scores.error(np.zeros((4, 7)), np.arange(4), top=2) == 50


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    scores_N, positive_N = RANDOM.normal(size=200).round(1), RANDOM.random(200) < 0.3  # Some scores are equal.
    found = class_scores.auc(scores_N, positive_N)
    np.testing.assert_allclose(found.value, metrics.roc_auc_score(positive_N, scores_N))
    false, true = class_scores.roc(scores_N, positive_N)
    np.testing.assert_allclose(np.trapezoid(true, false), found.value)
    assert class_scores.auc(positive_N.astype(float), positive_N).value == 1.0


def test_the_interval_of_the_area_covers_the_truth_as_often_as_it_says():
    """Normal scores one deviation apart, whose area is Phi(1 / sqrt 2): 95% of 400 samples, with three deviations."""
    truth, covered = 0.5 * (1 + math.erf(0.5)), 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        positive_N = np.arange(90) < 40
        found = class_scores.auc(random.normal(size=90) + positive_N, positive_N)
        covered += found.low <= truth <= found.high
    assert abs(covered / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_a_perfect_separation_still_has_an_interval():
    found = class_scores.auc(np.arange(20.0), np.arange(20) >= 10)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.7)


def test_calibration_is_the_distance_of_accuracy_from_confidence():
    """Two bins by hand: nine of ten right at 0.8, and one of four at 0.6."""
    confidence_N = np.array([0.8] * 10 + [0.6] * 4)
    found_NV = np.stack([1 - confidence_N, confidence_N], axis=1)
    right_N = np.array([True] * 9 + [False] + [True] + [False] * 3)
    found = class_scores.calibration(found_NV, right_N.astype(int), bins=5)
    np.testing.assert_allclose(found.error, (10 * 0.1 + 4 * 0.35) / 14)
    assert found.counts.tolist() == [4, 10]


def test_what_a_missing_class_leaves_without_meaning_is_nan():
    found = classes.scores(LOGITS_NV[:, :2], np.zeros(300, int), bins=10)
    assert math.isnan(found['auc'])
    assert math.isnan(found['sensitivity'])
    assert found['specificity'] > 0.5
    assert set(found) >= set(classes.definitions(2))


def test_the_classes_that_are_confused_most_are_shown():
    labels_N = np.arange(100) % 50
    logits_NV = np.eye(50)[np.where(labels_N >= 40, 49 - (labels_N - 40), labels_N)]
    names = tuple(f'class {i}' for i in range(50))
    matrix, table, curves = classes.pictures(logits_NV, labels_N, names=names, bins=15)
    assert matrix.title == 'Confusion matrix: the 32 of 50 classes that are confused most'
    assert {f'class {i}' for i in range(40, 50)} <= set(matrix.panels[0].rows)
    assert [row[:3] for row in table.rows if row[0] == 'class 40'] == [('class 40', 2, 2)]
    assert [panel.title for panel in curves.panels] == ['accuracy by confidence']
