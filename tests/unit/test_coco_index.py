"""The index: what it reads, what it refuses, what it drops, and its place on disk."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference
from pycocotools.coco import COCO

from coco_documents import SQUARE, annotation, packed, runs, sound_document, write_document
from groundup.data.coco import Index, open_index
from groundup.data.rle import crop_mask, decode_counts, encode_counts
from groundup.data.subset import subset_rows, write_subset
from groundup.data.truth import Bitmap
from groundup.errors import DataError, UsageError

# The reference library's own use of numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def opened(folder: Path, document: Any, **options: Any) -> Index:
    path = write_document(folder, document)
    (folder / "images").mkdir(exist_ok=True)
    return open_index(path, folder / "images", **options)


def whole_mask(mask: Any, height: int, width: int) -> np.ndarray:
    if isinstance(mask, Bitmap):
        canvas = np.zeros((height, width), np.uint8)
        h, w = mask.pixels.shape
        canvas[mask.y : mask.y + h, mask.x : mask.x + w] = mask.pixels
        return canvas
    rings = [ring.astype(float).ravel().tolist() for ring in mask]
    return reference.decode(reference.merge(reference.frPyObjects(rings, height, width)))


def test_labels_count_the_categories_in_order_of_id(tmp_path):
    index = opened(tmp_path, sound_document())
    assert [(c.id, c.name) for c in index.categories] == [(5, "person"), (90, "ball")]
    assert index.truth(0).labels.tolist() == [1, 0, 1]


def test_images_keep_their_ids_sizes_and_names_in_the_order_of_the_file(tmp_path):
    index = opened(tmp_path, sound_document())
    assert index.image_ids.tolist() == [7, 3, 900]
    assert index.sizes.tolist() == [[40, 60]] * 3
    assert [index.file_name(row) for row in range(3)] == ["a.png", "b.png", "sub/c.png"]
    assert index.path(2) == tmp_path / "images" / "sub" / "c.png"
    assert index.row_of(900) == 2
    assert (index.num_images, index.num_instances, index.num_keypoints) == (3, 5, 3)
    with pytest.raises(DataError, match="4"):
        index.row_of(4)


def test_crowds_are_measured_but_not_learnt(tmp_path):
    index = opened(tmp_path, sound_document())
    assert index.num_usable.tolist() == [3, 1, 0]
    assert len(index.truth(1).boxes) == 1
    assert sorted(a["iscrowd"] for a in index.document([1])["annotations"]) == [0, 1]


def test_boxes_are_corners_clipped_to_the_image(tmp_path):
    document = sound_document()
    document["annotations"][2]["bbox"] = [-5, 10, 100.5, 10]
    truth = opened(tmp_path, document).truth(0)
    assert truth.boxes.dtype == np.float32
    assert truth.boxes[1].tolist() == [0, 10, 60, 20]


def test_masks_stay_polygons_or_become_tight_bitmaps(tmp_path):
    masks = opened(tmp_path, sound_document()).truth(0).masks
    assert isinstance(masks[1], list)
    assert masks[1][0].tolist() == np.array(SQUARE[0]).reshape(-1, 2).tolist()
    assert (masks[0].x, masks[0].y, masks[0].pixels.shape) == (0, 0, (4, 5))
    assert masks[0].pixels.all()
    assert (masks[2].x, masks[2].y, masks[2].pixels.shape) == (1, 0, (40, 2))


def test_keypoints_of_a_category_without_them_are_zero(tmp_path):
    index = opened(tmp_path, sound_document())
    # The middles of the pixels that the file names.
    assert index.truth(1).keypoints.tolist() == [[[12.5, 12.5, 2], [20.5, 20.5, 1], [0, 0, 0]]]
    assert not index.truth(0).keypoints.any()
    assert index.categories[0].flip_pairs == ((0, 1),)


def test_a_data_set_without_masks_has_none(tmp_path):
    document = sound_document()
    for record in document["annotations"]:
        record["segmentation"] = []
    index = opened(tmp_path, document)
    assert not index.has_masks
    assert index.truth(0).masks is None
    assert not index.dropped


def test_segmentations_can_be_left_unread(tmp_path):
    document = sound_document()
    document["annotations"][0]["segmentation"] = [[1, 2]]
    index = opened(tmp_path, document, masks=False)
    assert not index.has_masks
    assert index.num_usable.tolist() == [3, 1, 0]


def test_the_document_has_the_users_ids_and_its_own_numbers_from_1(tmp_path):
    document = opened(tmp_path, sound_document()).document()
    assert [a["id"] for a in document["annotations"]] == [1, 2, 3, 4, 5]
    assert {a["category_id"] for a in document["annotations"]} == {5, 90}
    assert {a["image_id"] for a in document["annotations"]} == {7, 3}
    assert [c["name"] for c in document["categories"]] == ["person", "ball"]
    person = next(a for a in document["annotations"] if a["image_id"] == 3 and not a["iscrowd"])
    assert person["keypoints"] == [12, 12, 2, 20, 20, 1, 0, 0, 0]
    assert person["num_keypoints"] == 2
    json.dumps(document, allow_nan=False)


def test_missing_area_and_crowd_are_filled_and_counted(tmp_path):
    document = sound_document()
    for record in document["annotations"]:
        del record["area"], record["iscrowd"]
    index = opened(tmp_path, document)
    areas = {a["bbox"][0]: a["area"] for a in index.document()["annotations"]}
    polygon = reference.frPyObjects(SQUARE, 40, 60)
    assert areas == {10: reference.area(polygon)[0], 0: 20, 20.5: reference.area(polygon)[0], 2: 120, 1: 80}
    assert (index.counts["area-missing"], index.counts["crowd-missing"]) == (5, 5)


def test_without_masks_a_missing_area_is_that_of_the_box(tmp_path):
    document = sound_document()
    document["annotations"] = [annotation(1, 7, 5, segmentation=None, area=None)]
    assert opened(tmp_path, document).document()["annotations"][0]["area"] == 400


def test_roboflow_has_its_json_beside_the_images(tmp_path):
    write_document(tmp_path, sound_document(), "_annotations.coco.json")
    index = open_index(tmp_path)
    assert index.path(0) == tmp_path / "a.png"
    assert index.annotations == tmp_path / "_annotations.coco.json"


def test_ids_written_as_text_are_read_as_numbers_and_counted(tmp_path):
    document = sound_document()
    for image in document["images"]:
        image["id"] = str(image["id"])
    index = opened(tmp_path, document)
    assert index.image_ids.tolist() == [7, 3, 900]
    assert index.counts["id-is-text"] == 3


def test_an_annotation_id_of_0_is_no_fault(tmp_path):
    document = sound_document()
    document["annotations"][0]["id"] = 0
    index = opened(tmp_path, document)
    assert index.counts["annotation-id-zero"] == 1
    assert len(index.document()["annotations"]) == 5


@pytest.mark.parametrize(
    ("rule", "field", "value"),
    [
        ("annotation-id-duplicate", "id", 12),
        ("id-type", "id", "twelve"),
        ("id-type", "image_id", 3.5),
        ("image-unknown", "image_id", 4),
        ("category-unknown", "category_id", 6),
        ("box-type", "bbox", [1, 2, 3]),
        ("box-type", "bbox", None),
        ("box-not-finite", "bbox", [0, 0, 1e30, 5]),
        ("mask-type", "segmentation", [10, 10, 20, 10, 20, 20]),
        ("mask-type", "segmentation", "none"),
        ("polygon-not-finite", "segmentation", [[0, 0, 1e9, 0, 5, 5]]),
        ("rle-size", "segmentation", {"size": [60, 40], "counts": [2400]}),
        ("rle-counts", "segmentation", {"size": [40, 60], "counts": [0, 2500]}),
        ("rle-counts", "segmentation", {"size": [40, 60], "counts": [-1, 2401]}),
        ("rle-counts", "segmentation", {"size": [40, 60], "counts": [2**63, 1]}),
        ("rle-counts", "segmentation", {"size": [40, 60], "counts": "\x01 no"}),
        ("rle-counts", "segmentation", {"size": [40, 60]}),
        ("area-invalid", "area", "large"),
        ("crowd-invalid", "iscrowd", 2),
        ("keypoints-count", "keypoints", [1, 2]),
    ],
)
def test_errors_refuse_the_data_set_in_one_line_that_helps(tmp_path, rule, field, value):
    document = sound_document()
    document["annotations"][0][field] = value
    with pytest.raises(DataError) as caught:
        opened(tmp_path, document)
    message = str(caught.value)
    assert "\n" not in message
    for part in (rule, "annotations[", field, "groundup data check", "annotations.json"):
        assert part in message
    assert not list(tmp_path.glob(".groundup/*/table.json"))


def test_errors_are_counted_and_the_first_are_named(tmp_path):
    document = sound_document()
    for record in document["annotations"]:
        record["bbox"] = [float("nan")] * 4
        record["image_id"] = 1
    with pytest.raises(DataError, match=r"^\d+ errors: .*\| and \d+ more; run `groundup data check`"):
        opened(tmp_path, document)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "C:\\a.png", "..\\a.png"])
def test_names_that_leave_the_image_folder_are_refused(tmp_path, name):
    document = sound_document()
    document["images"][0]["file_name"] = name
    with pytest.raises(DataError, match="file-escapes"):
        opened(tmp_path, document)


def test_links_that_leave_the_image_folder_are_refused(tmp_path):
    index = opened(tmp_path, sound_document())
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "images" / "real.png").write_bytes(b"x")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "images" / "real.png")
    with pytest.raises(DataError, match="file-escapes"):
        index.path(0)
    assert index.path(1).read_bytes() == b"x"


def dropping_document() -> dict[str, Any]:
    document = sound_document()
    document["annotations"] += [
        annotation(21, 900, 5, bbox=[5, 5, 0, 9]),
        annotation(22, 900, 5, bbox=[100, 5, 9, 9]),
        annotation(23, 900, 5, segmentation=[[1, 1, 2, 2]]),
        annotation(24, 900, 5, segmentation=[[1, 1, 2, 2, 3]]),
        annotation(25, 900, 5, segmentation=[]),
        annotation(26, 900, 5, segmentation={"size": [40, 60], "counts": [2400]}),
        annotation(27, 900, 5, segmentation=[[1, 1, 2, 2], *SQUARE]),
    ]
    return document


def test_what_cannot_be_used_is_listed_and_left_out_of_training_and_evaluation_alike(tmp_path):
    index = opened(tmp_path, dropping_document(), max_dropped_ratio=1.0)
    assert index.dropped == {
        "box-no-area": [21],
        "box-outside": [22],
        "polygon-too-few-points": [23],
        "polygon-odd-coordinates": [24],
        "mask-missing": [25],
        "mask-empty": [26],
    }
    assert len(index.truth(2).boxes) == 1
    assert len(index.truth(2).masks[0]) == 1
    assert len(index.document([2])["annotations"]) == 1
    assert index.subset([0, 1]).dropped == {}
    assert len(index.subset([2]).dropped) == 6


def test_too_much_dropped_is_refused_also_from_the_cache(tmp_path):
    for _ in range(2):
        with pytest.raises(DataError, match=r"6 of 12 annotations .*max_dropped_ratio"):
            opened(tmp_path, dropping_document())
        assert opened(tmp_path, dropping_document(), max_dropped_ratio=0.5).num_images == 3


def test_a_second_opening_reads_no_json(tmp_path):
    index = opened(tmp_path, sound_document())
    table = next((tmp_path / ".groundup").glob("*-v*/table.json"))
    before = table.stat().st_mtime_ns
    again = open_index(index.annotations, index.images)
    assert table.stat().st_mtime_ns == before
    assert again.digest == index.digest
    assert (tmp_path / ".groundup" / ".gitignore").read_text() == "*\n"


def test_a_changed_json_is_read_again(tmp_path):
    first = opened(tmp_path, sound_document())
    document = sound_document()
    document["annotations"][0]["bbox"] = [10, 10, 20, 21]
    second = opened(tmp_path, document)
    assert first.digest != second.digest
    assert second.truth(1).boxes[0].tolist() == [10, 10, 30, 31]


def test_the_digest_is_remembered_only_for_an_unchanged_file(tmp_path):
    path = write_document(tmp_path, sound_document())
    (tmp_path / "images").mkdir()
    old = time.time() - 100
    os.utime(path, (old, old))
    time.sleep(0.01)
    remembered = list((tmp_path / ".groundup").glob("*.digest"))
    assert not remembered
    index = open_index(path, tmp_path / "images")
    text = path.read_text().replace('"height": 40', '"height": 41', 1)
    path.write_text(text)
    os.utime(path, (old, old))
    with pytest.raises(DataError, match="rle-size"):
        open_index(path, tmp_path / "images")
    assert index.sizes[0].tolist() == [40, 60]


@pytest.mark.parametrize("damage", ["truncate", "remove", "version", "meta"])
def test_a_damaged_table_is_built_again(tmp_path, damage):
    index = opened(tmp_path, sound_document())
    folder = next((tmp_path / ".groundup").glob("*-v*/table.json")).parent
    truth = index.truth(0).boxes.copy()
    meta = folder / "table.json"
    if damage == "truncate":
        os.truncate(folder / "boxes.npy", 100)
    elif damage == "remove":
        (folder / "runs.npy").unlink()
    elif damage == "version":
        meta.write_text(meta.read_text().replace('"version":', '"version":9'))
    else:
        meta.write_bytes(b"{")
    assert (open_index(index.annotations, index.images).truth(0).boxes == truth).all()


def test_a_folder_that_takes_no_files_leaves_the_table_to_the_users_cache(tmp_path, monkeypatch):
    home = tmp_path / "data"
    home.mkdir()
    path = write_document(home, sound_document())
    (home / "images").mkdir()
    home.chmod(0o555)
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    try:
        assert open_index(path, home / "images").num_images == 3
    finally:
        home.chmod(0o755)
    assert not (home / ".groundup").exists()
    assert list((tmp_path / "cache").glob("*-v*/table.json"))


def test_processes_that_race_for_one_table_all_get_it(tmp_path):
    path = write_document(tmp_path, sound_document())
    (tmp_path / "images").mkdir()
    code = (
        "import sys, pathlib\nfrom groundup.data.coco import open_index\n"
        "print(open_index(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])).num_instances)"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "images")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == [b"5"] * 3
    assert len(list((tmp_path / ".groundup").glob("*-v*/table.json"))) == 1
    assert not list((tmp_path / ".groundup").glob("*.draft"))


def test_an_index_travels_as_paths(tmp_path):
    index = opened(tmp_path, sound_document())
    text = pickle.dumps(index)
    assert len(text) < 1000
    again = pickle.loads(text)
    assert (again.truth(0).boxes == index.truth(0).boxes).all()
    part = pickle.loads(pickle.dumps(index.subset([2, 0])))
    assert part.image_ids.tolist() == [900, 7]
    assert part.row_of(7) == 1
    assert part.digest not in ("", index.digest)


def test_subset_of_a_subset_counts_rows_of_the_subset(tmp_path):
    part = opened(tmp_path, sound_document()).subset([2, 0]).subset([1])
    assert part.image_ids.tolist() == [7]
    assert part.num_usable.tolist() == [3]
    assert part.num_instances == 3
    with pytest.raises(IndexError):
        part.truth(1)


def test_a_written_subset_keeps_its_records_as_they_were(tmp_path):
    index = opened(tmp_path, dropping_document(), max_dropped_ratio=1.0)
    path = tmp_path / "part.json"
    write_subset(index, [2, 0], path)
    written = json.loads(path.read_text())
    document = dropping_document()
    assert written["categories"] == document["categories"]
    assert written["info"] == document["info"]
    assert written["images"] == [document["images"][0], document["images"][2]]
    assert written["annotations"] == [a for a in document["annotations"] if a["image_id"] != 3]


def test_a_fraction_outside_0_to_1_is_refused(tmp_path):
    index = opened(tmp_path, sound_document())
    for fraction in (0.0, 1.5, -1.0):
        with pytest.raises(UsageError):
            subset_rows(index, fraction, 0)
    assert subset_rows(index, 1e-9, 0).shape == (1,)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="document-missing"):
        open_index(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="folder-missing"):
        open_index(write_document(tmp_path, sound_document()), tmp_path / "none")


def test_run_lengths_agree_with_the_reference_library():
    random = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.98):
        mask = (random.random((37, 53)) < density).astype(np.uint8)
        packed_mask = reference.encode(np.asfortranarray(mask))
        counts = decode_counts(packed_mask["counts"].decode())
        assert counts.sum() == mask.size
        assert encode_counts(counts, 37, 53) == packed_mask["counts"].decode()
        assert (whole_mask(crop_mask(counts, 37), 37, 53) == mask).all()


def test_packed_and_plain_run_lengths_are_one_mask(tmp_path):
    document = sound_document()
    plain = opened(tmp_path, document).document()
    for record in document["annotations"]:
        if isinstance(record["segmentation"], dict) and isinstance(record["segmentation"]["counts"], list):
            record["segmentation"] = packed(record["segmentation"])
    assert opened(tmp_path, document).document() == plain


def test_two_thousand_images_open_at_once(tmp_path):
    random = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in range(2000)]
    owners = random.integers(0, 2000, 6_000)
    records = [
        annotation(i + 1, int(owner), 5, segmentation=SQUARE if i % 3 else runs(i % 50, 5, 9))
        for i, owner in enumerate(owners)
    ]
    document = {"images": images, "annotations": records, "categories": sound_document()["categories"][1:]}
    index = opened(tmp_path, document)
    start = time.perf_counter()
    again = open_index(index.annotations, index.images)
    seconds = time.perf_counter() - start
    assert seconds < 0.5
    assert again.num_usable.sum() == 6_000
    assert again.num_usable.tolist() == np.bincount(owners, minlength=2000).tolist()
    assert [len(again.truth(row).boxes) for row in range(0, 2000, 97)] == again.num_usable[::97].tolist()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("coco_mini/annotations/instances_val2017.json", "coco_mini/val2017"),
        ("coco_person/annotations/person_keypoints_val.json", "coco_person/val"),
        ("nuclei_dsb2018/annotations/instances_val.json", "nuclei_dsb2018/images"),
    ],
)
def test_real_data_sets_are_read_as_the_reference_library_reads_them(
    shared_data, tmp_path, annotations, images, capsys
):
    index = open_index(shared_data / annotations, shared_data / images, cache=tmp_path)
    peer = COCO(shared_data / annotations)
    assert not index.dropped
    assert index.num_instances == len(peer.anns)
    for row in range(0, index.num_images, 9):
        truth = index.truth(row)
        image = peer.imgs[int(index.image_ids[row])]
        theirs = [a for a in peer.imgToAnns[image["id"]] if not a["iscrowd"]]
        boxes = np.array([a["bbox"] for a in theirs]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert truth.boxes == pytest.approx(boxes, abs=1.0)  # ours are clipped to the image
        assert [index.categories[label].id for label in truth.labels] == [a["category_id"] for a in theirs]
        for mask, record in list(zip(truth.masks, theirs, strict=True))[:20]:
            ours = whole_mask(mask, image["height"], image["width"])
            differing = int((ours != peer.annToMask(record)).sum())
            # Polygons in 32 bits may fall on the other side of the reference's grid of a fifth of a pixel.
            assert differing <= (0 if isinstance(mask, Bitmap) else 4 + 0.01 * record["area"])
        ours = index.document([row])["annotations"]
        for mine, record in list(zip(ours, peer.imgToAnns[image["id"]], strict=True))[:20]:
            assert {key: mine[key] for key in ("bbox", "area", "iscrowd", "category_id", "image_id")} == {
                key: record[key] for key in ("bbox", "area", "iscrowd", "category_id", "image_id")
            }
            assert (peer.annToMask(mine) == peer.annToMask(record)).all()
