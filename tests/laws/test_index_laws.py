"""Laws of the index and the doctor, on documents nobody would write by hand."""

import contextlib
import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco_documents import annotation, packed, runs, sound_document, write_document
from groundup.data.coco import open_index
from groundup.data.doctor import examine
from groundup.data.rle import crop_mask, decode_counts, encode_counts
from groundup.data.rules import RULES
from groundup.data.subset import subset_rows
from groundup.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PHOTOGRAPH_GROUPS = {"A", "B"}

odd_numbers = st.one_of(
    st.integers(-5, 70),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, 40, 60, 2400, 1e300, -0.0, 2**63, 10**400]),
)
odd_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), odd_numbers, st.text(max_size=6), st.sampled_from(["1", "7", "../x", ""])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
boxes = st.one_of(st.lists(odd_numbers, min_size=4, max_size=4), odd_values)
segmentations = st.one_of(
    st.lists(st.lists(odd_numbers, max_size=9), max_size=3),
    st.fixed_dictionaries(
        {
            "size": st.one_of(st.just([40, 60]), odd_values),
            "counts": st.one_of(
                st.lists(st.integers(-3, 2500), max_size=6),
                st.text(alphabet=st.characters(min_codepoint=40, max_codepoint=115), max_size=12),
                st.integers(0, 2400).map(lambda n: [n, 2400 - n]),
                odd_values,
            ),
        }
    ),
    odd_values,
)
ids = st.one_of(st.integers(0, 9), odd_values)
damage = {
    "annotations": st.fixed_dictionaries(
        {},
        optional={
            "id": ids,
            "image_id": ids,
            "category_id": ids,
            "bbox": boxes,
            "area": odd_values,
            "iscrowd": odd_values,
            "segmentation": segmentations,
            "keypoints": st.one_of(st.lists(odd_numbers, min_size=9, max_size=9), odd_values),
            "num_keypoints": odd_values,
        },
    ),
    "images": st.fixed_dictionaries(
        {}, optional={"id": ids, "file_name": odd_values, "height": odd_values, "width": odd_values}
    ),
    "categories": st.fixed_dictionaries(
        {},
        optional={"id": ids, "name": odd_values, "keypoints": odd_values, "skeleton": odd_values},
    ),
}


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A sound document of which some fields, records or sections are replaced by anything."""
    document: dict[str, Any] = sound_document()
    for section, changes in damage.items():
        for record in document[section]:
            if draw(st.integers(0, 3)) == 0:
                record.update(draw(changes))
        if draw(st.integers(0, 9)) == 0:
            document[section].append(draw(odd_values))
        if draw(st.integers(0, 30)) == 0:
            document[section] = draw(odd_values)
    return document if draw(st.integers(0, 40)) else draw(odd_values)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=documents())
def test_any_document_is_examined_and_opens_exactly_if_it_has_no_errors(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        path = write_document(home, json.dumps(document))
        examination = examine(path, home, decode=False)
        json.dumps(examination.to_json(), allow_nan=False)
        assert all(line.isprintable() for line in examination.lines())
        errors = {
            problem.rule
            for problem in examination.errors
            if RULES[problem.rule].group not in PHOTOGRAPH_GROUPS
        }
        if errors:
            with pytest.raises(DataError):
                open_index(path, home)
            return
        index = open_index(path, home)
        assert sum(len(found) for found in index.dropped.values()) == examination.num_dropped
        clean = index.document()
        json.dumps(clean, allow_nan=False)
        assert sum(not record["iscrowd"] for record in clean["annotations"]) == index.num_usable.sum()
        for row in range(index.num_images):
            truth = index.truth(row)
            height, width = index.sizes[row]
            assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()
            assert (truth.boxes >= 0).all()
            assert (truth.boxes <= [width, height, width, height]).all()
            assert np.isfinite(truth.boxes).all()


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60) | st.text(alphabet='[]{},:"\\ aN1-', max_size=60).map(str.encode))
def test_any_bytes_are_examined(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(content)
        assert examine(path, Path(folder)).exit_code == 3


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=200), max_size=30))
def test_any_text_is_run_lengths_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert decode_counts(text).ndim == 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    density=st.floats(0.01, 1),
)
def test_encoding_undoes_decoding_and_cropping_loses_nothing(seed, height, width, density):
    mask = (np.random.default_rng(seed).random((height, width)) < density).astype(np.uint8)
    mask[0, 0] |= not mask.any()
    text = reference.encode(np.asfortranarray(mask))["counts"].decode()
    counts = decode_counts(text)
    assert encode_counts(counts, height, width) == text
    tight = crop_mask(counts, height)
    h, w = tight.pixels.shape
    assert (mask[tight.y : tight.y + h, tight.x : tight.x + w] == tight.pixels).all()
    assert mask.sum() == tight.pixels.sum()
    assert tight.pixels.any(axis=0)[[0, -1]].all()
    assert tight.pixels.any(axis=1)[[0, -1]].all()


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An index of 100 images, and one of the same images in another order."""
    folder = tmp_path_factory.mktemp("numbered")
    images = [{"id": 3 * i + 1, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(100)]
    document = {**sound_document(), "images": images, "annotations": []}
    first = open_index(write_document(folder, document), folder)
    random.Random(0).shuffle(images)
    return first, open_index(write_document(folder, document, "shuffled.json"), folder)


@settings(max_examples=60, deadline=None)
@given(fractions=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)), seed=st.integers(-(2**70), 2**70))
def test_a_smaller_subset_lies_inside_a_larger_one(numbered, fractions, seed):
    small, large = (set(subset_rows(numbered[0], fraction, seed).tolist()) for fraction in sorted(fractions))
    assert small <= large
    assert len(large) == max(1, round(max(fractions) * 100))


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(0.001, 1), seed=st.integers(0, 2**40))
def test_a_subset_depends_on_the_ids_not_on_the_order_of_the_file(numbered, fraction, seed):
    chosen = [set(index.image_ids[subset_rows(index, fraction, seed)].tolist()) for index in numbered]
    assert chosen[0] == chosen[1]


def test_seeds_choose_different_subsets_without_favourites(numbered):
    counts = np.zeros(100)
    for seed in range(400):
        counts[subset_rows(numbered[0], 0.1, seed)] += 1
    # Binomial(400, 0.1): mean 40, deviation 6.
    assert counts.min() > 15
    assert counts.max() < 70


def average_precision(document: dict[str, Any], results: list[dict[str, Any]], kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def scene(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A document of masks and crowds, and detections near some of its objects."""
    generator = random.Random(seed)
    document = {**sound_document(), "annotations": []}
    results = []
    for number in range(1, 30):
        left, width, height = generator.randrange(40), generator.randrange(2, 19), generator.randrange(5, 40)
        image, category = generator.choice([7, 3, 900]), generator.choice([5, 90])
        record = annotation(number, image, category, bbox=[left, 0, width, height], area=width * height)
        rle = runs(left, width, height)
        crowd = int(generator.random() < 0.1)
        document["annotations"].append({**record, "segmentation": rle, "iscrowd": crowd})
        near = runs(left, width + 1, max(1, height - generator.randrange(8)))
        results.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": [left + generator.random(), 0, width, height],
                "segmentation": packed(near),
                "score": round(generator.random(), 2),
            }
        )
    return document, results


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_ap_does_not_depend_on_annotation_ids_or_the_order_of_keys_and_records(tmp_path, seed, kind):
    document, results = scene(seed)
    expected = average_precision(json.loads(json.dumps(document)), results, kind)
    generator = random.Random(seed)
    numbers = [0, *generator.sample(range(10_000), len(document["annotations"]) - 1)]
    renumbered = json.loads(json.dumps(document))
    renumbered["annotations"] = [
        dict(generator.sample(list({**record, "id": number}.items()), len(record)))
        for number, record in zip(numbers, renumbered["annotations"], strict=True)
    ]
    generator.shuffle(renumbered["annotations"])
    generator.shuffle(renumbered["images"])
    renumbered = dict(generator.sample(list(renumbered.items()), len(renumbered)))
    index = open_index(write_document(tmp_path, renumbered), tmp_path)
    assert average_precision(index.document(), results, kind) == pytest.approx(expected, abs=1e-12)
    assert expected[0] > 0.1
