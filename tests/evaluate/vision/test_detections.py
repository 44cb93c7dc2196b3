"""Scores of planted detections are pycocotools' own; the health of the matching says what is wrong by its name."""

import contextlib
import io
import json
import math

import numpy as np
import pytest

pytest.importorskip('pycocotools')
from pycocotools import coco, cocoeval

from bigmodel_jax import config
from bigmodel_jax.data.builders import digit_scenes
from bigmodel_jax.data.vision.detection import detection_images
from bigmodel_jax.evaluate import encodings
from bigmodel_jax.evaluate.vision import average_precision, box_drawing, detections, matching_health
from bigmodel_jax.objectives.detection import boxes, detection

CLASSES, IMAGES = 4, 30


def planted(seed):
    """Objects of several sizes in images, some of them crowds, and detections near to them or anywhere."""
    random = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(IMAGES):
        count = random.integers(0, 6)
        corners = random.uniform(0, 300, (count, 2))
        edges = np.concatenate([corners, corners + random.uniform(8, 200, (count, 2))], axis=1)
        labels, crowd = random.integers(0, CLASSES, count), random.random(count) < 0.1
        areas = np.prod(edges[:, 2:] - edges[:, :2], axis=1) * random.uniform(0.5, 1, count)
        truths.append(average_precision.Truth(edges, labels, crowd, areas))
        near = edges + random.normal(0, 6, edges.shape)
        other = np.sort(random.uniform(0, 300, (4, 2, 2)), axis=1).reshape(4, 4)
        classes = np.concatenate([labels, random.integers(0, CLASSES, 4)])
        scores = random.random(count + 4)
        found.append(average_precision.FoundObjects(np.concatenate([near, other]), classes, scores))
    return truths, found


def by_files(truths, found, path):
    """What pycocotools says of the files that people give it."""
    annotations, results = [], []
    for image, (truth, each) in enumerate(zip(truths, found), 1):
        for box, label, crowd, area in zip(*truth):
            left, top, right, bottom = box
            annotations.append({
                'id': len(annotations) + 1, 'image_id': image, 'category_id': int(label) + 1, 'iscrowd': int(crowd),
                'area': area, 'bbox': [left, top, right - left, bottom - top],
            })  # fmt: skip
        for (left, top, right, bottom), label, score in zip(*each):
            bbox = [left, top, right - left, bottom - top]
            results.append({'image_id': image, 'category_id': int(label) + 1, 'score': score, 'bbox': bbox})
    files = {
        'truth': {
            'images': [{'id': image + 1} for image in range(len(truths))],
            'categories': [{'id': label + 1} for label in range(CLASSES)],
            'annotations': annotations,
        },
        'results': results,
    }
    for name, content in files.items():
        (path / f'{name}.json').write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(path / 'truth.json'))
        run = cocoeval.COCOeval(truth, truth.loadRes(str(path / 'results.json')), 'bbox')
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run


@pytest.mark.parametrize('seed', range(3))
def test_planted_detections_score_as_pycocotools_scores_their_files(seed, tmp_path, capsys):
    truths, found = planted(seed)
    scores = average_precision.scores(truths, found, classes=CLASSES)
    assert capsys.readouterr().out == ''
    run = by_files(truths, found, tmp_path)
    wanted = [value if value >= 0 else math.nan for value in run.stats]
    np.testing.assert_array_equal(list(scores.summary.values()), [100 * value for value in wanted])
    assert 0 < scores.summary['ap'] < 100
    precision = run.eval['precision'][:, :, :, 0, -1]
    np.testing.assert_allclose(scores.by_class[:, 0], 100 * precision.mean(axis=(0, 1)), rtol=1e-12)
    assert scores.signature.startswith('pycocotools 2.')


def test_what_is_found_exactly_scores_100_and_without_objects_there_is_no_score():
    truths, _ = planted(0)
    exact = [average_precision.FoundObjects(of.boxes, of.labels, np.ones(len(of.labels))) for of in truths]
    assert average_precision.scores(truths, exact, classes=CLASSES).summary['ap'] == pytest.approx(100)
    nothing = [average_precision.FoundObjects(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)) for _ in truths]
    assert average_precision.scores(truths, nothing, classes=CLASSES).summary['ap'] == 0
    empty = [of._replace(**{name: value[:0] for name, value in of._asdict().items()}) for of in truths]
    found = average_precision.scores(empty, exact, classes=CLASSES)
    assert all(map(math.isnan, found.summary.values()))


# ---- the matching ---------------------------------------------------------------------------------------------------


def rows(*, score=0.9, wrong=False, shift=0.0, queries=(0, 1)):
    """Four images with two objects of the classes 0 and 1, and two of the four queries that find them."""
    N, Q = 4, 4
    random = np.random.default_rng(0)
    places = random.uniform(-0.05, 0.05, (N, 2, 2)) + np.array([[0.25], [0.7]])
    middles = np.concatenate([places, np.full((N, 2, 2), 0.3)], axis=-1)
    edges = np.asarray(boxes.corners(middles.astype(np.float32)))
    found = np.tile(edges[:, :1], (1, Q, 1))
    scores, classes = np.full((N, Q), 0.01), np.zeros((N, Q), int)
    for o, q in enumerate(queries):
        found[:, q] = edges[:, o] + shift
        scores[:, q], classes[:, q] = score, (o + 1) % 2 if wrong else o
    matched = np.tile(np.array(queries), (N, 1))
    losses = np.tile([1.0, 2.2, 0.2, 0.4, 2.0 * wrong], (N, 1))
    return detections.DetectionRows(
        weights_N=np.ones(N), truth_edges=edges, labels_NO=np.tile([0, 1], (N, 1)), mask_NO=np.ones((N, 2)),
        crowd_NO=np.zeros((N, 2)), areas_NO=np.full((N, 2), 0.09), original_size=np.tile([40, 60], (N, 1)),
        scores_NQ=scores, classes_NQ=classes, found_edges=found, empty_NQ=scores < 0.5, query_NO=matched,
        losses=losses,
    )  # fmt: skip


def health(**changes):
    return matching_health.health(rows(**changes), detection.Detection(), threshold=0.5)


def test_a_healthy_matching_has_no_diagnosis_and_its_parts_are_measured():
    found = health()
    assert len(found.artifacts) == 1
    wanted = {'class_error': 0, 'missed': 0, 'queries_used': 50, 'found_per_image': 2}
    wanted |= {'class_loss': 1 / 2.2, 'l1_loss': 0.1, 'giou_loss': 0.2}
    assert found.values == pytest.approx(wanted)
    shown = dict(found.artifacts[0].rows)
    assert shown['objects that no query was matched with'] == '0 of 8'
    assert shown['queries that find an object in some image'] == '2 of 4'
    assert shown['loss of boxes, L1, times its weight of 5'] == 0.5


@pytest.mark.parametrize(
    ('changes', 'values', 'said'),
    [
        ({'score': 0.2}, {'missed': 100, 'found_per_image': 0}, 'No query finds anything'),
        ({'wrong': True}, {'class_error': 100, 'missed': 100}, 'Labels that count from 1'),
        ({'shift': 0.3}, {'missed': 100, 'class_error': 0}, None),
    ],
)
def test_what_is_wrong_has_a_name(changes, values, said):
    found = health(**changes)
    assert {name: found.values[name] for name in values} == pytest.approx(values)
    texts = [each.text for each in found.artifacts[1:]]
    assert texts == [] if said is None else said in texts[0]


def test_boxes_that_do_not_move_and_queries_that_idle_are_named():
    still = np.zeros((5, 20, 4)) + [0.1, 0.2, 0.3, 0.4]
    said = matching_health.diagnosis({'found_per_image': 1, 'class_error': 5, 'queries_used': 5.0}, still, objects=3)
    assert 'All queries predict the same box' in said[0]
    assert 'Only 5.0% of the queries are ever matched' in said[1]
    assert 'no object' in matching_health.diagnosis({}, still, objects=0)[0]


def test_boxes_of_images_are_in_their_own_pixels_and_crowds_stay_apart():
    of = rows()
    of.crowd_NO[0, 1], of.mask_NO[0, 1] = 1, 0
    truth, found = detections.of_image(of, 0)
    np.testing.assert_allclose(truth.boxes, of.truth_edges[0] * [60, 40, 60, 40])
    np.testing.assert_array_equal(truth.crowd, [False, True])
    np.testing.assert_allclose(truth.areas, 0.09 * 2_400)
    np.testing.assert_allclose(found.boxes[0], truth.boxes[0])


def test_true_boxes_are_green_and_found_ones_orange():
    of = [box_drawing.LabelledBox([0.25, 0.25, 0.75, 0.75], 'a')], [box_drawing.LabelledBox([0, 0, 0.5, 0.5], 'b 90%')]
    picture = box_drawing.drawn(np.zeros((40, 40, 3)), *of, 'both')
    pixels = encodings.pixels_in(picture.content)
    assert pixels.shape == (320, 320, 3)
    np.testing.assert_array_equal(pixels[239, 200], box_drawing.TRUE)
    np.testing.assert_array_equal(pixels[0, 100], box_drawing.FOUND)
    assert not pixels[300, 300].any()


def test_names_must_be_as_many_as_the_classes():
    data = detection_images.DetectionImages(
        source=digit_scenes.DigitScenes(count=1), shape=(64, 64, 3), classes=10, max_objects=4, batch=1
    )
    with pytest.raises(config.InputError, match='names 2 classes, but its data has 10'):
        detections.Detections(data=data, every_steps=1, names=('a', 'b')).build(None)
