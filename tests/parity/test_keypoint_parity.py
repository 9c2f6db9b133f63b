"""Against torchvision's Keypoint R-CNN with the same weights, photographs and random choices.

Sizes are reduced (RoIs, proposals, photographs of 192 pixels) so that the test takes seconds; a slow one has
published sizes.
"""

import json

import cv2
import pytest
import torch
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from groundup.models.keypoint_presets import torchvision_keypoint_rcnn
from groundup.models.presets import PUBLISHED, DetectorSizes
from groundup.models.rcnn import build_detector
from groundup.models.torchvision_detectors import detector_from_torchvision
from groundup.structures import Batch
from torchvision_peer import (
    MEAN,
    STD,
    WithoutResize,
    compare_gradients,
    follow_the_last_batch,
    losses_of_both,
)

pytestmark = pytest.mark.shared

NUM_KEYPOINTS = 17
REDUCED = {
    "rpn_pre_nms_top_n_train": 400,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_train": 400,
    "rpn_post_nms_top_n_test": 200,
    "box_batch_size_per_image": 32,
    "box_detections_per_img": 10,
}
REDUCED_SIZES = DetectorSizes(rois_per_image=32, proposals_factor=0.2, max_detections=10)
TOLERANCE = 1e-4
LOSSES = {
    "loss_rpn_objectness": "loss_objectness",
    "loss_rpn_box": "loss_rpn_box_reg",
    "loss_box_class": "loss_classifier",
    "loss_box_delta": "loss_box_reg",
    "loss_keypoint": "loss_keypoint",
}


def photographs(shared_data, num, long_side):
    """Id, pixels, boxes and keypoints of the first photographs with three persons or more."""
    folder = shared_data / "coco_person"
    document = json.loads((folder / "annotations" / "person_keypoints_val.json").read_text())
    found = []
    for image in document["images"]:
        persons = [a for a in document["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        if len(persons) < 3 or sum(a["num_keypoints"] for a in persons) < 15:
            continue
        height, width = image["height"], image["width"]
        scale = long_side / max(height, width)
        new = (round(width * scale), round(height * scale))
        growth = torch.tensor([new[0] / width, new[1] / height])
        pixels = cv2.cvtColor(cv2.imread(str(folder / "val" / image["file_name"])), cv2.COLOR_BGR2RGB)
        xywh = torch.tensor([a["bbox"] for a in persons])
        keypoints = torch.tensor([a["keypoints"] for a in persons], dtype=torch.float32).view(
            -1, NUM_KEYPOINTS, 3
        )
        found.append(
            (
                image["id"],
                torch.from_numpy(cv2.resize(pixels, new)).permute(2, 0, 1).contiguous(),
                torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1) * growth.repeat(2),
                torch.cat([keypoints[..., :2] * growth, keypoints[..., 2:]], 2),
            )
        )
        if len(found) == num:
            return found
    raise AssertionError("coco_person has too few photographs")


def our_batch(photos) -> Batch:
    sizes = torch.tensor([photo[1].shape[1:] for photo in photos], dtype=torch.int32)
    height, width = (int(-(-s // 32) * 32) for s in sizes.amax(0))
    slots = max(len(photo[2]) for photo in photos)
    images = torch.zeros(len(photos), 3, height, width, dtype=torch.uint8)
    boxes, labels = torch.zeros(len(photos), slots, 4), torch.full((len(photos), slots), -1)
    keypoints = torch.zeros(len(photos), slots, NUM_KEYPOINTS, 3)
    for row, (_, image, photo_boxes, photo_keypoints) in enumerate(photos):
        images[row, :, : image.shape[1], : image.shape[2]] = image
        boxes[row, : len(photo_boxes)] = photo_boxes
        labels[row, : len(photo_boxes)] = 0
        keypoints[row, : len(photo_boxes)] = photo_keypoints
    return Batch(
        images=images,
        sizes=sizes,
        original_sizes=sizes,
        boxes=boxes,
        labels=labels,
        masks=None,
        keypoints=keypoints,
        image_ids=torch.tensor([photo[0] for photo in photos]),
        seeds=torch.arange(len(photos)) + 7,
    )


def both(sizes, kwargs):
    """torchvision's detector, made to find something, and ours with its weights."""
    torch.manual_seed(0)
    peer = keypointrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=1, max_size=9999, box_score_thresh=0.05, **kwargs
    )
    peer.transform = WithoutResize(1, 9999, list(MEAN), list(STD))
    with torch.no_grad():
        for module in (peer.rpn.head.cls_logits, peer.rpn.head.bbox_pred):
            module.weight *= 3
        peer.roi_heads.box_predictor.cls_score.weight *= 5
        peer.roi_heads.keypoint_predictor.kps_score_lowres.weight *= 3
    ours = build_detector(
        torchvision_keypoint_rcnn(sizes=sizes),
        num_classes=1,
        pixel_mean=MEAN,
        pixel_std=STD,
        num_keypoints=NUM_KEYPOINTS,
    )
    ours.load_state_dict(detector_from_torchvision(peer.state_dict()))
    follow_the_last_batch(peer, ours)
    return peer, ours


def compare(photos, sizes, kwargs):
    peer, ours = both(sizes, kwargs)
    batch = our_batch(photos)
    images = [photo[1].float() / 255 for photo in photos]
    targets = [
        {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64), "keypoints": keypoints}
        for _, _, boxes, keypoints in photos
    ]
    our_losses, peer_losses = losses_of_both(ours, batch, peer, images, targets)
    assert set(our_losses) == set(LOSSES)
    for our_name, peer_name in LOSSES.items():
        value = our_losses[our_name].item()
        assert value > 0
        assert value == pytest.approx(peer_losses[peer_name].item(), rel=TOLERANCE), our_name
    compare_gradients(ours, our_losses, peer, peer_losses)

    peer.eval()
    ours.eval()
    with torch.no_grad():
        theirs = peer(images)
        maps = ours.roi_maps(ours.pyramid(batch))
    for row, (expected, detections) in enumerate(zip(theirs, ours.detect(batch), strict=True)):
        assert len(detections.boxes) >= 5
        torch.testing.assert_close(detections.scores, expected["scores"], rtol=TOLERANCE, atol=1e-6)
        torch.testing.assert_close(detections.boxes, expected["boxes"], rtol=TOLERANCE, atol=1e-3)
        places = detections.keypoints[..., :2]
        torch.testing.assert_close(places, expected["keypoints"][..., :2], rtol=TOLERANCE, atol=1e-2)
        # Their score is the highest logit, ours its probability.
        with torch.no_grad():
            heatmaps = ours.keypoint_head.heatmaps(
                maps, detections.boxes, torch.full((len(detections.boxes),), row)
            )
        logits = expected["keypoints_scores"] - heatmaps.flatten(2).logsumexp(2)
        torch.testing.assert_close(
            detections.keypoints[..., 2], logits.exp().clamp(max=1), rtol=1e-3, atol=1e-6
        )


def test_keypoint_losses_gradients_and_detections_equal_torchvisions(shared_data):
    compare(photographs(shared_data, 2, 192), REDUCED_SIZES, REDUCED)


@pytest.mark.slow
def test_they_are_equal_at_published_sizes(shared_data):
    compare(photographs(shared_data, 1, 640), PUBLISHED, {})
