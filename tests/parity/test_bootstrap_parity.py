"""Our bootstrap beside the evaluator library's own: why we do not use that one."""

import contextlib
import io

import numpy as np
from hotcoco import COCO, COCOeval, compare

from detections import draw_document, draw_results
from groundup.metrics.bootstrap import bootstrap_endpoints, draw_weights
from groundup.metrics.match_table import build_match_table

NUM_REPLICATES = 300


def test_hotcocos_interval_is_narrower_as_it_counts_an_image_that_is_drawn_twice_but_once():
    """If this fails the library has mended it; ours stays, as it also weighs several seeds together."""
    document = draw_document(0, num_images=40, num_instances=5, empty_images=0)
    arms = [draw_results(document, seed, num_noise=6, tied=False) for seed in (1, 2)]
    evaluators = []
    for results in arms:
        truth = COCO(document)
        boxes = [{k: r[k] for k in ("image_id", "category_id", "score", "bbox")} for r in results]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluators.append(COCOeval(truth, truth.load_res(boxes), "bbox"))
            evaluators[-1].evaluate()
            evaluators[-1].accumulate()
    theirs = compare(*evaluators, n_bootstrap=NUM_REPLICATES, seed=0, confidence=0.95)["ci"]["AP"]
    weights = draw_weights(40, NUM_REPLICATES, seed=0)
    first, second = (
        bootstrap_endpoints([build_match_table(document, results, "bbox")], weights, ["AP"])["AP"].replicates
        for results in arms
    )
    ours = np.percentile((second - first) / 100, [2.5, 97.5])
    low, high = (theirs["lower"], theirs["upper"]) if isinstance(theirs, dict) else theirs[:2]
    assert (high - low) < 0.9 * (ours[1] - ours[0])
