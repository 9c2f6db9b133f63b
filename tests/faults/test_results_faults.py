"""Odd results: each has one pre-defined answer (reliability, group N), never a silent wrong AP."""

import json

import numpy as np
import pytest

from detections import draw_document, draw_results
from groundup.errors import DataError
from groundup.metrics.coco_ap import coco_ap
from groundup.metrics.results import check_results, kinds_of, read_results, resolve_names, write_results

FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@pytest.fixture
def document():
    return draw_document(0)


@pytest.fixture
def results(document):
    return draw_results(document, 1)


def spoil(results, row, **changes):
    return [{**result, **changes} if r == row else result for r, result in enumerate(results)]


@pytest.mark.parametrize("kind", FIELDS)
def test_no_results_score_zero_with_a_note(document, kind):
    values = coco_ap(document, [], kind)
    assert values.AP == 0.0
    assert values.AR[values.max_detections] == 0.0
    assert any("no results" in note for note in values.notes)


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("emptied", ["annotations", "both"])
def test_without_instances_every_value_is_undefined(document, results, kind, emptied):
    values = coco_ap({**document, "annotations": []}, [] if emptied == "both" else results, kind)
    assert (values.AP, values.AP50, values.APs, values.AR[values.max_detections]) == (None,) * 4
    assert values.values() == {}
    assert any("undefined" in note for note in values.notes)


def test_a_category_without_instances_enters_no_mean(document, results):
    values = coco_ap(document, results, "bbox")
    defined = [category.AP for category in values.categories if category.AP is not None]
    assert len(defined) == len(values.categories) - 1
    assert pytest.approx(np.mean(defined), abs=1e-12) == values.AP


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("score", [float("nan"), float("inf"), None, "high"])
def test_a_score_that_is_no_finite_number_is_refused_with_its_image(document, results, kind, score):
    with pytest.raises(
        DataError, match=rf"1 of {len(results)} .*score.*row 4 \(image {results[4]['image_id']}"
    ):
        check_results(document, spoil(results, 4, score=score), kind)


@pytest.mark.parametrize(
    "box", [[0, 0, float("inf"), 5], [0, 0, float("nan"), 5], [0, 0, -1, 5], [0, 0, 5], "box"]
)
def test_a_box_that_cannot_be_is_refused_with_its_image(document, results, box):
    with pytest.raises(DataError, match=rf"bbox.*row 2 \(image {results[2]['image_id']}"):
        check_results(document, spoil(results, 2, bbox=box), "bbox")


@pytest.mark.parametrize("image_id", [999_999, "a name", None, [1], 3.5])
def test_an_image_that_the_annotations_lack_is_refused(document, results, image_id):
    with pytest.raises(DataError, match=r"name an image the annotations do not have: row 0"):
        check_results(document, spoil(results, 0, image_id=image_id), "bbox")


def test_a_category_that_the_annotations_lack_is_refused(document, results):
    with pytest.raises(DataError, match=r"category.*row 7 .*category_id 12345"):
        check_results(document, spoil(results, 7, category_id=12345), "segm")


@pytest.mark.parametrize("kind", FIELDS)
def test_a_missing_field_is_refused_by_name(document, results, kind):
    bare = [{k: v for k, v in result.items() if k != FIELDS[kind]} for result in results]
    with pytest.raises(DataError, match=f"have no '{FIELDS[kind]}'"):
        check_results(document, bare, kind)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"size": [3, 3], "counts": [9]}, "another size"),
        ([[1, 1, 5, 1, 5, 5]], "run-length"),
        ({"size": [3, 3]}, "run-length"),
    ],
)
def test_a_mask_that_is_not_of_its_image_is_refused(document, results, mask, words):
    with pytest.raises(DataError, match=words):
        check_results(document, spoil(results, 1, segmentation=mask), "segm")


@pytest.mark.parametrize("counts", ["zzzz@@@", "5Pb`n0"])
def test_a_mask_whose_runs_do_not_fit_its_image_is_refused(document, results, counts):
    broken = {"size": results[1]["segmentation"]["size"], "counts": counts}
    with pytest.raises(DataError, match=r"runs do not fit.*row 1"):
        coco_ap(document, spoil(results, 1, segmentation=broken), "segm")


def test_counts_as_a_list_are_refused_with_what_makes_them_text(document, results):
    broken = {"size": results[1]["segmentation"]["size"], "counts": [5, 10]}
    with pytest.raises(DataError, match=r"row 1 .*counts are a list.*frPyObjects"):
        coco_ap(document, spoil(results, 1, segmentation=broken), "segm")


def test_keypoints_that_are_not_finite_or_not_threes_are_refused(document, results):
    with pytest.raises(DataError, match="not finite"):
        check_results(document, spoil(results, 3, keypoints=[float("nan")] * 51), "keypoints")
    with pytest.raises(DataError, match=r"not \(x, y, score\)"):
        check_results(document, spoil(results, 3, keypoints=[1.0] * 50), "keypoints")


def test_every_broken_rule_is_listed_with_its_count(document, results):
    spoilt = spoil(spoil(results, 0, score=float("nan")), 1, bbox=[0, 0, -5, 1])
    with pytest.raises(DataError, match=r"^file\.json: 1 of .*score.*; 1 of .*negative size") as caught:
        check_results(document, spoilt, "bbox", source="file.json")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_many_faults_are_counted_not_all_named(document, results):
    with pytest.raises(DataError, match=rf"{len(results)} of {len(results)} .* and {len(results) - 5} more"):
        check_results(document, [{**result, "score": float("nan")} for result in results], "bbox")


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_ids_that_occur_twice_in_the_annotations_are_refused(document, results, name):
    twice = {**document, name: [*document[name], document[name][0]]}
    with pytest.raises(DataError, match=f"occur twice in '{name}'"):
        coco_ap(twice, results, "bbox")


def test_annotation_id_zero_scores_like_any_other(document, results):
    zero = {**document, "annotations": [{**a, "id": a["id"] - 1} for a in document["annotations"]]}
    assert coco_ap(zero, results, "bbox") == coco_ap(document, results, "bbox")


def test_the_order_of_images_annotations_and_categories_does_not_matter(document, results):
    turned = {name: entries[::-1] for name, entries in document.items()}
    assert coco_ap(turned, results, "segm").values() == coco_ap(document, results, "segm").values()


def test_written_results_read_back_equal(tmp_path, results):
    as_bytes = {**results[0]["segmentation"], "counts": results[0]["segmentation"]["counts"].encode()}
    write_results(tmp_path / "r.json", spoil(results, 0, segmentation=as_bytes))
    assert read_results(tmp_path / "r.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_scores_that_json_cannot_hold_are_never_written(tmp_path, results):
    with pytest.raises(DataError, match="score"):
        write_results(tmp_path / "r.json", spoil(results, 0, score=float("nan")))
    assert not (tmp_path / "r.json").exists()


def test_foreign_files_are_read(tmp_path, document, results):
    for name, value in (("list", results), ("annotations", {"annotations": results, "info": {}})):
        (tmp_path / name).write_text(json.dumps(value))
        assert read_results(tmp_path / name) == results
    spoilt = spoil(results, 0, score=float("nan"))
    (tmp_path / "nan").write_text(json.dumps(spoilt))  # python writes NaN, which is not JSON
    with pytest.raises(DataError, match="score"):
        check_results(document, read_results(tmp_path / "nan"), "bbox")


@pytest.mark.parametrize("content", [b"", b"[{", b'{"a": 1}', b"3", b"\xff\xfe"])
def test_a_file_without_results_is_refused_with_its_path(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(DataError, match=r"r\.json: "):
        read_results(tmp_path / "r.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_results(tmp_path / "absent.json")


def test_image_ids_given_as_file_stems_are_resolved_and_counted(document, results):
    document["images"][0]["file_name"] = "folder/first photograph.jpg"
    image_id = document["images"][0]["id"]
    named = [{**r, "image_id": "first photograph"} if r["image_id"] == image_id else r for r in results]
    resolved, count = resolve_names(document, named)
    assert resolved == results
    assert count == sum(r["image_id"] == image_id for r in results)


def test_a_name_that_two_images_share_is_not_resolved(document):
    for image in document["images"]:
        image["file_name"] = f"{image['id']}/same.jpg"
    resolved, count = resolve_names(document, [{"image_id": "same"}])
    assert (resolved, count) == ([{"image_id": "same"}], 0)


def test_the_kinds_of_a_file_are_those_that_every_result_has(results):
    assert kinds_of(results) == ("bbox", "segm", "keypoints")
    assert kinds_of([{"bbox": [], "segmentation": {}}, {"bbox": []}]) == ("bbox",)
