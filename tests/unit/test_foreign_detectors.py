"""Detectors of other systems as starts: written in their layouts from our weights, they come back as ours.

The layouts are spelled here a second time, by their public names, so that a slip in one of them shows.
"""

import json
import pickle
import re
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN, keypointrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from detector_worlds import NUM_CLASSES, random_batch
from groundup.errors import DataError, UsageError
from groundup.models import presets
from groundup.models.backbone import BackboneOptions, build_backbone
from groundup.models.detectron_names import detector_from_detectron2, detectron2_from_detectron, our_name
from groundup.models.rcnn import build_detector
from groundup.models.start import StartOptions, load_start, normalisation_of
from groundup.models.torchvision_detectors import detector_from_torchvision
from groundup.models.weights import BYTE_STD, IMAGENET_MEAN, IMAGENET_STD, facts_of
from groundup.recipes import resolve_recipe

SIZES = presets.TINY.model_copy(update={"box_convs": 2})
NAMES = ("red", "green", "blue", "round", "square")
BYTES = {"pixel_mean": IMAGENET_MEAN, "pixel_std": BYTE_STD}


def ours(preset=presets.paper_mask_rcnn, norm="gn", seed=0, num_classes=NUM_CLASSES, backbone="resnet26"):
    torch.manual_seed(seed)
    model = build_detector(
        preset(backbone, norm, sizes=SIZES),
        num_classes=num_classes,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=BYTE_STD,
    )
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and ("bn" in name or tensor.dim() == 1):
                tensor.add_(torch.rand(tensor.shape))
    return model


def detectron2_state(model):
    """The model's tensors as Detectron2 names them: bottom_up, fpn_lateral2..5, rpn_head, roi_heads."""
    state = {}
    for name, tensor in model.backbone.body.state_dict().items():
        parts = name.split(".")
        leaf = parts[-1]
        if parts[0] == "conv1":
            state["backbone.bottom_up.stem.conv1.weight"] = tensor[:, [2, 1, 0]]
            continue
        if parts[0] == "bn1":
            state[f"backbone.bottom_up.stem.conv1.norm.{leaf}"] = tensor
            continue
        stage = f"backbone.bottom_up.res{int(parts[0][-1]) + 1}.{parts[1]}"
        if parts[2] == "downsample":
            part = {"0": "shortcut", "1": "shortcut.norm"}[parts[3]]
        else:
            part = f"conv{parts[2][-1]}" + (".norm" if parts[2].startswith("bn") else "")
        state[f"{stage}.{part}.{leaf}"] = tensor
    kinds = {"0": "", "1": ".norm"}
    for name, tensor in model.state_dict().items():
        if name.endswith("_extra_state"):
            continue
        part, layers, *rest = name.split(".")
        if part == "cascade":
            continue
        leaf = rest[-1] if rest else ""
        if part == "fpn":
            their = {"laterals": "fpn_lateral", "outputs": "fpn_output"}[layers]
            state[f"backbone.{their}{int(rest[0]) + 2}{kinds[rest[1]]}.{leaf}"] = tensor
        elif part == "rpn":
            their = {"convs": "conv", "objectness": "objectness_logits", "deltas": "anchor_deltas"}[layers]
            state[f"proposal_generator.rpn_head.{their}.{leaf}"] = tensor
        elif part == "box_head" and layers == "convs":
            state[f"roi_heads.box_head.conv{int(rest[0]) + 1}{kinds[rest[1]]}.{leaf}"] = tensor
        elif part == "box_head" and layers == "fcs":
            state[f"roi_heads.box_head.fc{int(rest[0]) // 2 + 1}.{leaf}"] = tensor
        elif part == "box_head":
            their = {"classes": "cls_score", "deltas": "bbox_pred"}[layers]
            state[f"roi_heads.box_predictor.{their}.{leaf}"] = tensor
        elif part == "mask_head" and layers == "convs":
            state[f"roi_heads.mask_head.mask_fcn{int(rest[0]) + 1}{kinds[rest[1]]}.{leaf}"] = tensor
        elif part == "mask_head":
            their = {"upsample": "deconv", "masks": "predictor"}[layers]
            state[f"roi_heads.mask_head.{their}.{leaf}"] = tensor
    return state


def cascade_state(model):
    """A cascade's tensors as Detectron2 names them: lists of heads and of predictors."""
    state = {
        re.sub(r"(box_head|box_predictor)\.", r"\1.0.", name): tensor
        for name, tensor in detectron2_state(model).items()
    }
    for number, head in enumerate(model.cascade.heads, 1):
        for name, tensor in head.state_dict().items():
            part, *rest, leaf = name.split(".")
            if part == "convs":
                their = f"box_head.{number}.conv{int(rest[0]) + 1}{'.norm' if rest[1] == '1' else ''}"
            elif part == "fcs":
                their = f"box_head.{number}.fc{int(rest[0]) // 2 + 1}"
            else:
                their = f"box_predictor.{number}.{ {'classes': 'cls_score', 'deltas': 'bbox_pred'}[part] }"
            state[f"roi_heads.{their}.{leaf}"] = tensor
    return state


def detectron_blobs(model, last_blocks=(1, 1, 1, 1)):
    """The model's tensors as Detectron's blobs: res2_0_branch2a_w, fpn_inner_res5_2_sum_w, fc6_w."""
    leaves = {"weight": "w", "bias": "b"}
    blobs = {}
    for name, tensor in detectron2_state(model).items():
        parts = name.split(".")
        leaf = leaves.get(parts[-1])
        suffix = f"_gn_{'s' if leaf == 'w' else 'b'}" if parts[-2] == "norm" else f"_{leaf}"
        inner = [part for part in parts[:-1] if part != "norm"]
        if "stem" in inner:
            blob = "conv1"
        elif "bottom_up" in inner:
            branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
            blob = f"{inner[2]}_{inner[3]}_branch{branches[inner[4]]}"
        elif inner[-1].startswith("fpn_lateral"):
            stage = int(inner[-1][-1])
            tail = "" if stage == 5 else "_lateral"
            blob = f"fpn_inner_res{stage}_{last_blocks[stage - 2]}_sum{tail}"
        elif inner[-1].startswith("fpn_output"):
            stage = int(inner[-1][-1])
            blob = f"fpn_res{stage}_{last_blocks[stage - 2]}_sum"
        elif inner[0] == "proposal_generator":
            blob = {
                "conv": "conv_rpn_fpn2",
                "objectness_logits": "rpn_cls_logits_fpn2",
                "anchor_deltas": "rpn_bbox_pred_fpn2",
            }[inner[-1]]
        else:
            numbered = f"_[mask]_fcn{inner[-1][-1]}" if "mask" in inner[-1] else f"head_{inner[-1]}"
            blob = {
                "fc1": "fc6",
                "fc2": "fc7",
                "cls_score": "cls_score",
                "bbox_pred": "bbox_pred",
                "deconv": "conv5_mask",
                "predictor": "mask_fcn_logits",
            }.get(inner[-1], numbered)
        background = {"cls_score": 1, "bbox_pred": 4, "mask_fcn_logits": 1}.get(blob, 0)
        if blob == "cls_score":
            tensor = torch.cat([tensor[-1:], tensor[:-1]])
        elif background:
            tensor = torch.cat([torch.full_like(tensor[:background], 9.0), tensor])
        blobs[blob + suffix] = tensor
    return blobs


def as_pickle(path, tensors, *, protocol=2, wrapper="model", **more):
    arrays = OrderedDict((name, tensor.detach().numpy()) for name, tensor in tensors.items())
    path.write_bytes(pickle.dumps({wrapper: arrays, **more}, protocol=protocol))
    return str(path)


def assert_same(model, other):
    assert set(model.state_dict()) == set(other.state_dict())
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def whole(path, **changes):
    return StartOptions(weights=path, part="all", **{**BYTES, **changes})


SYSTEMS = {
    "paper": (presets.paper_mask_rcnn, "gn"),
    "plain": (presets.detectron2, "frozen_bn"),
    "syncbn": (presets.paper_mask_rcnn, "syncbn"),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_detector_of_detectron2_comes_back_whole(tmp_path, system):
    trained = ours(*SYSTEMS[system])
    path = as_pickle(tmp_path / "model_final.pkl", detectron2_state(trained), __author__="Detectron2")
    model = ours(*SYSTEMS[system], seed=1)
    report = load_start(model, whole(path))
    assert_same(trained, model)
    assert {tensor.outcome for tensor in report.tensors} == {"loaded"}
    assert report.percent == 100
    batch = random_batch((2,))
    expected, found = (one.eval().detect(batch)[0] for one in (trained, model))
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=0)


def test_a_checkpoint_of_detectron2s_trainer_is_the_same(tmp_path):
    trained, model = ours(), ours(seed=1)
    torch.save({"model": detectron2_state(trained), "iteration": 7}, tmp_path / "model_0000007.pth")
    load_start(model, whole(str(tmp_path / "model_0000007.pth")))
    assert_same(trained, model)


def test_a_cascade_of_detectron2_comes_back_whole(tmp_path):
    def cascade(backbone, norm, sizes):
        return presets.with_cascade(presets.paper_mask_rcnn(backbone, norm, sizes=sizes))

    trained, model = ours(cascade), ours(cascade, seed=1)
    state = cascade_state(trained)
    assert {f"roi_heads.box_head.{k}.fc1.weight" for k in range(3)} <= set(state)
    assert {f"roi_heads.box_predictor.{k}.bbox_pred.bias" for k in range(3)} <= set(state)
    report = load_start(model, whole(as_pickle(tmp_path / "cascade.pkl", state)))
    assert {tensor.outcome for tensor in report.tensors} == {"loaded"}
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("theirs", "here"),
    [
        ("box_head.0.conv4.norm.weight", "box_head.convs.3.1.weight"),
        ("box_head.2.conv1.weight", "cascade.heads.1.convs.0.0.weight"),
        ("box_head.1.fc2.bias", "cascade.heads.0.fcs.2.bias"),
        ("box_predictor.2.cls_score.weight", "cascade.heads.1.classes.weight"),
        ("box_head.1.something.weight", None),
    ],
)
def test_stages_of_a_cascade_have_our_names(theirs, here):
    name = f"roi_heads.{theirs}"
    assert our_name(name) == (name if here is None else here)


def test_a_plain_detector_takes_a_cascades_first_stage_and_names_the_others(tmp_path):
    def cascade(backbone, norm, sizes):
        return presets.with_cascade(presets.paper_mask_rcnn(backbone, norm, sizes=sizes))

    def agnostic(backbone, norm, sizes):
        return cascade(backbone, norm, sizes).model_copy(update={"cascade": None})

    trained, model = ours(cascade), ours(agnostic, seed=1)
    report = load_start(model, whole(as_pickle(tmp_path / "cascade.pkl", cascade_state(trained))))
    assert {tensor.name.split(".")[0] for tensor in report.of("unexpected")} == {"cascade"}
    assert not report.of("missing", "wrong shape")
    assert torch.equal(model.box_head.classes.bias, trained.box_head.classes.bias)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_detector_of_detectron_comes_back_whole(tmp_path, protocol):
    trained = ours()
    blobs = detectron_blobs(trained)
    assert {"conv1_gn_s", "res2_0_branch2a_w", "fpn_inner_res4_1_sum_lateral_gn_b", "fc6_w"} <= set(blobs)
    path = as_pickle(
        tmp_path / "model_final.pkl",
        blobs | {"fc6_w_momentum": torch.zeros(2)},
        protocol=protocol,
        wrapper="blobs",
        cfg="MODEL: ...",
    )
    model = ours(seed=1)
    mean = facts_of(path).mean
    report = load_start(model, whole(path, pixel_mean=mean))
    assert_same(trained, model)
    assert [tensor.name for tensor in report.of("unexpected")] == ["fc6_w_momentum"]
    assert mean == pytest.approx((122.7717 / 255, 115.9465 / 255, 102.9801 / 255))


def test_detectrons_folded_norm_gives_the_same_features(tmp_path):
    trained = ours(presets.detectron2, "frozen_bn")
    blobs = {}
    for name, module in trained.backbone.body.named_modules():
        if not hasattr(module, "running_mean"):
            continue
        scale = module.weight * (module.running_var + module.eps).rsqrt()
        parts = name.split(".")
        branches = {"bn1": "branch2a", "bn2": "branch2b", "bn3": "branch2c", "downsample": "branch1"}
        blob = "res_conv1"
        if len(parts) > 1:
            blob = f"res{int(parts[0][-1]) + 1}_{parts[1]}_{branches[parts[2]]}"
        blobs[f"{blob}_bn_s"], blobs[f"{blob}_bn_b"] = scale, module.bias - module.running_mean * scale
    convs = {
        name: t
        for name, t in detectron_blobs(trained).items()
        if "gn" not in name and not name.endswith("_b")
    }
    path = as_pickle(tmp_path / "R-26.pkl", convs | blobs, wrapper="blobs")
    model = build_backbone(BackboneOptions(name="resnet26", norm="frozen_bn"))
    report = load_start(model, StartOptions(weights=path, **{**BYTES, "pixel_mean": facts_of(path).mean}))
    assert report.percent == 100
    image = torch.randn(1, 3, 64, 64)
    for found, expected in zip(model(image), trained.backbone(image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("blob", "detectron2", "here"),
    [
        ("conv_fcn8_w", "conv_fcn8.weight", "keypoint_head.convs.7.0.weight"),
        ("kps_score_lowres_b", "score_lowres.bias", "keypoint_head.deconv.bias"),
    ],
)
def test_keypoint_heads_have_a_place_too(blob, detectron2, here):
    values = torch.ones(3)
    theirs = detectron2_from_detectron({blob: values})
    assert list(theirs) == [f"roi_heads.keypoint_head.{detectron2}"]
    assert list(detector_from_detectron2(theirs)) == [here]


def test_detectron2s_bare_backbones_load(tmp_path):
    trained = ours(presets.detectron2, "frozen_bn")
    inner = "backbone.bottom_up."
    state = {
        name.removeprefix(inner): t for name, t in detectron2_state(trained).items() if name.startswith(inner)
    }
    path = as_pickle(tmp_path / "R-26.pkl", state, matching_heuristics=True, __author__="torchvision")
    model = build_backbone(BackboneOptions(name="resnet26", norm="frozen_bn"))
    report = load_start(model, StartOptions(weights=path, **BYTES))
    assert_same(trained.backbone, model)
    assert report.percent == 100


def test_a_network_of_blue_green_red_sees_the_same_in_red_green_blue(tmp_path):
    trained, model = ours(), ours(seed=1)
    state = detectron2_state(trained)
    load_start(model, whole(as_pickle(tmp_path / "d2.pkl", state)))
    rgb = torch.randn(1, 3, 16, 16)
    theirs = functional.conv2d(rgb.flip(1), state["backbone.bottom_up.stem.conv1.weight"])
    torch.testing.assert_close(functional.conv2d(rgb, model.backbone.body.conv1.weight), theirs)


def test_anchors_of_several_sizes_change_their_order(tmp_path):
    trained = ours()
    state = detectron2_state(trained)
    head = "proposal_generator.rpn_head"
    marks = torch.tensor([[size * 10.0 + ratio for ratio in range(3)] for size in range(5)])
    state[f"{head}.objectness_logits.weight"] = marks.view(15, 1, 1, 1).expand(15, 256, 1, 1).contiguous()
    state[f"{head}.objectness_logits.bias"] = marks.flatten()
    delta_marks = (marks[..., None] * 10 + torch.arange(4.0)).flatten()
    state[f"{head}.anchor_deltas.weight"] = delta_marks.view(60, 1, 1, 1).expand(60, 256, 1, 1).contiguous()
    state[f"{head}.anchor_deltas.bias"] = delta_marks
    options = trained.options.model_copy(update={"fpn": None})
    model = build_detector(options, num_classes=NUM_CLASSES, pixel_mean=IMAGENET_MEAN, pixel_std=BYTE_STD)
    for name in ("objectness_logits", "anchor_deltas"):
        weight = state[f"{head}.{name}.weight"]
        state[f"{head}.{name}.weight"] = weight[:, :1].expand(-1, model.rpn.deltas.in_channels, 1, 1).clone()
    load_start(model, whole(as_pickle(tmp_path / "d2.pkl", state)))
    expected = [size * 10.0 + ratio for ratio in range(3) for size in range(5)]
    assert model.rpn.objectness.bias.tolist() == expected
    deltas = model.rpn.deltas.bias.view(15, 4)
    assert deltas[:, 0].tolist() == [10 * mark for mark in expected]
    assert (deltas[:, 3] - deltas[:, 0] == 3).all()


def test_predictors_of_other_classes_stay_random_and_are_named(tmp_path):
    trained, model = ours(num_classes=3), ours(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_start(model, whole(as_pickle(tmp_path / "d2.pkl", detectron2_state(trained))))
    predictors = {
        f"{part}.{leaf}"
        for part in ("box_head.classes", "box_head.deltas", "mask_head.masks")
        for leaf in ("weight", "bias")
    }
    assert {tensor.name for tensor in report.of("wrong shape")} == predictors
    for name in predictors:
        assert torch.equal(model.state_dict()[name], before[name])
    assert torch.equal(model.box_head.fcs[0].weight, trained.box_head.fcs[0].weight)
    assert "wrong shape box_head.classes.weight" in "\n".join(report.lines())


def test_what_the_file_does_not_say_is_said(tmp_path):
    path = as_pickle(tmp_path / "d2.pkl", detectron2_state(ours()))
    assert normalisation_of(path) == (pytest.approx(IMAGENET_MEAN, abs=1e-3), BYTE_STD)
    text = "\n".join(load_start(ours(), whole(path)).lines())
    assert "note: the file does not say STRIDE_IN_1X1" in text
    assert "BGR" in text
    load_start(ours(), whole(path, pixel_std=IMAGENET_STD))
    with pytest.raises(UsageError, match=r"pixel_std is \[0.5, 0.5, 0.5\]") as caught:
        load_start(ours(), whole(path, pixel_std=(0.5, 0.5, 0.5)))
    assert "\n" not in str(caught.value)


def test_constants_in_the_file_hold(tmp_path):
    told = {"pixel_mean": torch.tensor([10.0, 20.0, 30.0]), "pixel_std": torch.tensor([57.0, 58.0, 59.0])}
    path = as_pickle(tmp_path / "d2.pkl", detectron2_state(ours()) | told)
    mean, std = normalisation_of(path)
    assert mean == pytest.approx((30 / 255, 20 / 255, 10 / 255))
    assert std == pytest.approx((59 / 255, 58 / 255, 57 / 255))
    with pytest.raises(UsageError, match=r"start\.pixel_mean"):
        load_start(ours(), whole(path))


class Payload:
    """What would leave a canary if anything ran it."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_payload_in_a_detectron_pickle_never_runs(tmp_path, protocol):
    import os

    canary, path = tmp_path / "canary", tmp_path / "model.pkl"
    for call, argument in (
        (os.system, f"touch {canary}"),
        (eval, f"open({str(canary)!r}, 'w')"),
        (torch.load, str(path)),
    ):
        path.write_bytes(pickle.dumps({"model": {"a": Payload(call, argument)}}, protocol=protocol))
        with pytest.raises(DataError, match="which is refused") as caught:
            load_start(ours(), whole(str(path)))
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert not canary.exists()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_pickle_is_refused_in_one_line(tmp_path, share):
    path = tmp_path / "d2.pkl"
    as_pickle(path, {"res2.0.conv1.weight": torch.ones(4, 4)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="fetch it again") as caught:
        facts_of(str(path))
    assert "\n" not in str(caught.value)


def torchvision_detector(num_classes):
    torch.manual_seed(3)
    trunk = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    return MaskRCNN(trunk, num_classes=num_classes + 1)


def old_names(state):
    """As the published weights of the plain detectors have them."""
    renamed = {}
    for name, tensor in state.items():
        old = name
        if ".inner_blocks." in name or ".layer_blocks." in name:
            old = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        elif name.startswith("rpn.head.conv."):
            old = name.replace(".0.0.", ".")
        elif name.startswith("roi_heads.mask_head."):
            number = int(name.split(".")[2])
            old = f"roi_heads.mask_head.mask_fcn{number + 1}.{name.split('.')[-1]}"
        renamed[old] = tensor
    assert len(renamed) == len(state)
    return renamed


@pytest.mark.parametrize("form", ["new", "old", "safetensors"])
def test_a_detector_of_torchvision_comes_as_a_file_of_its_own(tmp_path, form):
    state = torchvision_detector(NUM_CLASSES).state_dict()
    path = tmp_path / f"maskrcnn.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"model": old_names(state) if form == "old" else state, "epoch": 25}, path)
    model = build_detector(
        presets.torchvision("resnet18", "bn"),
        num_classes=NUM_CLASSES,
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
    report = load_start(model, StartOptions(weights=str(path), part="all"))
    assert {tensor.outcome for tensor in report.tensors} == {"loaded"}
    for name, tensor in detector_from_torchvision(state).items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["new", "old"])
def test_a_keypoint_detector_of_torchvision_comes_as_a_file_of_its_own(tmp_path, form):
    torch.manual_seed(3)
    peer = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = peer.state_dict()
    assert "roi_heads.keypoint_head.14.bias" in state
    torch.save(old_names(state) if form == "old" else state, tmp_path / "keypointrcnn.pth")
    recipe = resolve_recipe("keypoint_rcnn_r50_fpn_torchvision", [])
    model = build_detector(
        recipe.model, num_classes=1, pixel_mean=IMAGENET_MEAN, pixel_std=IMAGENET_STD, num_keypoints=17
    )
    report = load_start(model, StartOptions(weights=str(tmp_path / "keypointrcnn.pth"), part="all"))
    assert {tensor.outcome for tensor in report.tensors} == {"loaded"}
    assert report.percent == 100
    head = model.keypoint_head
    assert torch.equal(head.convs[7][0].bias, state["roi_heads.keypoint_head.14.bias"])
    deconv = state["roi_heads.keypoint_predictor.kps_score_lowres.weight"]
    assert torch.equal(head.deconv.weight, deconv)


def test_a_part_that_ours_lacks_is_named_and_hinders_nothing(tmp_path):
    state = torchvision_detector(NUM_CLASSES).state_dict()
    state["roi_heads.keypoint_head_of_old.0.weight"] = torch.zeros(2)
    torch.save(state, tmp_path / "rcnn.pth")
    model = build_backbone(BackboneOptions(name="resnet18", norm="bn"))
    report = load_start(model, StartOptions(weights=str(tmp_path / "rcnn.pth")))
    assert report.percent == 100
    assert "roi_heads.keypoint_head_of_old.0.weight" in {tensor.name for tensor in report.of("outside")}


def test_the_backbone_alone_of_a_detector_is_a_start_too(tmp_path):
    trained, model = ours(), ours(seed=1)
    path = as_pickle(tmp_path / "d2.pkl", detectron2_state(trained))
    report = load_start(model, StartOptions(weights=path, frozen_stages=2, **BYTES))
    assert_same(trained.backbone, model.backbone)
    assert not torch.equal(model.fpn.laterals[0][0].weight, trained.fpn.laterals[0][0].weight)
    assert "fpn.laterals.0.0.weight" in {tensor.name for tensor in report.of("outside")}


def saved_run(folder, model, names):
    checkpoint = folder / "checkpoints" / "images_000000001"
    checkpoint.mkdir(parents=True)
    safetensors.torch.save_file(model.state_dict(), checkpoint / "model.safetensors")
    (checkpoint / "COMMIT").write_text("digest")
    start = {"pixel_mean": IMAGENET_MEAN, "pixel_std": BYTE_STD}
    (folder / "recipe.json").write_text(json.dumps({"start": start}))
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    (folder / "record.json").write_text(json.dumps({"categories": categories}))
    return str(folder)


def test_predictors_are_taken_over_class_by_class_where_names_are_known(tmp_path):
    trained, model = ours(), ours(seed=1, num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = saved_run(tmp_path / "run", trained, NAMES)
    report = load_start(model, whole(path), ["Blue", "zebra", "red"])
    assert len(report.of("by class")) == 6
    theirs, mine = trained.state_dict(), model.state_dict()
    for name, rows in (
        ("box_head.classes.weight", 1),
        ("box_head.deltas.bias", 4),
        ("mask_head.masks.weight", 1),
    ):
        blue, zebra, red = mine[name][: 3 * rows].split(rows)
        assert torch.equal(blue, theirs[name][2 * rows : 3 * rows])
        assert torch.equal(red, theirs[name][:rows])
        assert torch.equal(zebra, before[name][rows : 2 * rows])
    assert torch.equal(mine["box_head.classes.weight"][-1], theirs["box_head.classes.weight"][-1])
    assert report.lines()[-1] == (
        "  note: predictors: 2 of 3 classes found by name (Blue, red); left random: zebra"
    )


def test_classes_in_another_order_are_put_in_ours(tmp_path):
    trained, model = ours(), ours(seed=1)
    path = saved_run(tmp_path / "run", trained, NAMES)
    load_start(model, whole(path), list(reversed(NAMES)))
    torch.testing.assert_close(model.box_head.classes.bias[:-1].flip(0), trained.box_head.classes.bias[:-1])
    same = ours(seed=1)
    report = load_start(same, whole(path), list(NAMES))
    assert not report.of("by class")
    assert_same(trained, same)


def test_torchvisions_detectors_know_their_classes():
    classes = facts_of("torchvision:MaskRCNN_ResNet50_FPN_Weights.COCO_V1").classes
    assert (len(classes), classes[0], classes[89]) == (90, "person", "toothbrush")
    assert facts_of("torchvision:KeypointRCNN_ResNet50_FPN_Weights.COCO_V1").classes == ("person",)
    assert facts_of("torchvision:ResNet50_Weights.IMAGENET1K_V1").classes is None


def test_the_stride_of_the_msra_models_is_on_the_1x1_convolution():
    torch.manual_seed(0)
    model = build_backbone(BackboneOptions(name="resnet26", norm="bn", stride_in_1x1=True)).eval()
    block = model.body.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert model.body.layer1[0].conv1.stride == (1, 1)
    peer = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 2, 2, 2]).eval()
    for layer in (peer.layer2, peer.layer3, peer.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    missing = peer.load_state_dict(model.body.state_dict(), strict=False).missing_keys
    assert missing == ["fc.weight", "fc.bias"]
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = nn.Sequential(*list(peer.children())[:-2])(image)
        torch.testing.assert_close(model(image)[-1], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="stride_in_1x1=false"):
        build_backbone(BackboneOptions(name="resnet18", stride_in_1x1=True))
