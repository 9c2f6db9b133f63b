import argparse
import json

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from groundup.config import read_tree
from groundup.errors import DataError, UsageError
from groundup.models.backbone import BackboneOptions, build_backbone
from groundup.models.norm import GroupNorm
from groundup.models.start import StartOptions, check_start, load_start, normalisation_of

NAME = "test_resnet"
"""A ResNet of half a million weights that timm keeps for tests."""


def backbone(norm="bn", name=NAME, seed=0):
    torch.manual_seed(seed)
    return build_backbone(BackboneOptions(name=name, norm=norm))


class Detector(nn.Module):
    """The least that has a backbone and something beside it."""

    def __init__(self, norm="bn", seed=0, num_classes=3):
        super().__init__()
        self.backbone = backbone(norm, seed=seed)
        self.head = nn.Linear(8, num_classes)


def whole_network(name=NAME, seed=7):
    """A whole classifier of timm with statistics that are not those of the beginning."""
    torch.manual_seed(seed)
    network = timm.create_model(name, num_classes=10)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return network.state_dict()


def saved(tmp_path, tensors, name="weights.pth"):
    torch.save(tensors, tmp_path / name)
    return str(tmp_path / name)


def assert_loaded(model, network):
    state = model.body.state_dict()
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(tensor, network[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frozen_stages": 2}, "set start.weights, or start.frozen_stages=0"),
        ({"frozen_stages": 6, "weights": "w.pth"}, "frozen_stages"),
        ({"digest": "0" * 64}, "speaks of weights"),
        ({"digest": "xyz", "weights": "w.pth"}, "digest"),
        ({"part": "all"}, "speaks of weights"),
        ({"allow_norm_mismatch": True}, "speaks of weights"),
        ({"pixel_std": [0.2, 0.0, 0.2]}, "above 0"),
        ({"pixel_mean": [123.675, 116.28, 103.53]}, "divide constants of bytes by 255"),
    ],
)
def test_a_start_that_could_not_mean_what_it_says_cannot_be_made(options, message):
    with pytest.raises(UsageError, match=message):
        read_tree(StartOptions, options)


def test_frozen_batch_norm_from_scratch_cannot_be_made():
    frozen = BackboneOptions(norm="frozen_bn")
    with pytest.raises(ValueError, match=r"set start\.weights, or a norm that learns"):
        check_start(StartOptions(), frozen)
    check_start(StartOptions(weights="weights.pth"), frozen)
    check_start(StartOptions(), BackboneOptions(norm="bn"))


def test_scratch_changes_nothing_and_says_so():
    model = backbone("gn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_start(model, StartOptions())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert (report.source, report.digest, report.percent) == ("scratch", None, 0)
    assert report.lines() == ["start: scratch (random weights, nothing frozen)"]


@pytest.mark.parametrize("norm", ["bn", "frozen_bn", "syncbn"])
def test_weights_of_the_same_network_fill_the_whole_backbone(tmp_path, norm):
    network = whole_network()
    model = backbone(norm)
    report = load_start(model, StartOptions(weights=saved(tmp_path, network)))
    assert_loaded(model, network)
    assert report.percent == 100
    assert [t.name for t in report.of("unexpected")] == ["fc.weight", "fc.bias"]
    assert not report.of("missing", "wrong shape", "kept")


WRAPPED = {
    "plain": lambda s: s,
    "data parallel": lambda s: {f"module.{n}": t for n, t in s.items()},
    "timm": lambda s: {"epoch": 3, "arch": "test", "state_dict": s},
    "torchvision": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "compiled": lambda s: {"model": {f"_orig_mod.{n}": t for n, t in s.items()}},
    "moco": lambda s: {
        "state_dict": {f"module.encoder_q.{n}": t for n, t in s.items()}
        | {f"module.encoder_k.{n}": t * 2 for n, t in s.items()}
        | {"module.queue": torch.zeros(2, 2)}
    },
    "dino": lambda s: {
        "student": {f"module.backbone.{n}": t * 2 for n, t in s.items()},
        "teacher": {f"backbone.{n}": t for n, t in s.items()} | {"head.mlp.0.weight": torch.zeros(2, 2)},
    },
    "detector": lambda s: {f"backbone.body.{n}": t for n, t in s.items()} | {"rpn.head.bias": torch.zeros(3)},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_what_trainers_put_around_weights_is_taken_off(tmp_path, form):
    network = whole_network()
    model = backbone()
    report = load_start(model, StartOptions(weights=saved(tmp_path, WRAPPED[form](network))))
    assert_loaded(model, network)
    assert report.percent == 100


def test_safetensors_and_pth_load_alike_and_half_precision_becomes_single(tmp_path):
    network = {name: t.half() if t.is_floating_point() else t for name, t in whole_network().items()}
    safetensors.torch.save_file(network, tmp_path / "weights.safetensors")
    first, second = backbone(seed=1), backbone(seed=2)
    load_start(first, StartOptions(weights=str(tmp_path / "weights.safetensors")))
    load_start(second, StartOptions(weights=saved(tmp_path, network)))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert first.body.conv1[0].weight.dtype == torch.float32


def write_run(folder, model, start):
    for step, value in (("images_000000100", 2.0), ("images_000000200", 1.0)):
        checkpoint = folder / "checkpoints" / step
        checkpoint.mkdir(parents=True)
        scaled = {n: (t * value).contiguous() for n, t in model.state_dict().items()}
        safetensors.torch.save_file(scaled, checkpoint / "model.safetensors")
        (checkpoint / "COMMIT").write_text("digest")
    (folder / "checkpoints" / "images_000000300").mkdir()
    (folder / "recipe.json").write_text(json.dumps({"start": start.model_dump(mode="json")}))


def test_a_run_of_ours_is_a_start_of_its_newest_finished_checkpoint(tmp_path):
    trained = Detector("gn", seed=5)
    write_run(tmp_path / "run", trained, StartOptions())
    model = Detector("gn", seed=6)
    report = load_start(model, StartOptions(weights=str(tmp_path / "run")))
    torch.testing.assert_close(model.backbone.state_dict(), trained.backbone.state_dict(), rtol=0, atol=0)
    assert not torch.equal(model.head.weight, trained.head.weight)
    assert report.percent == 100
    assert {t.name for t in report.of("outside")} == {"head.weight", "head.bias"}


def test_all_of_a_run_of_ours_can_be_a_start(tmp_path):
    trained = Detector("gn", seed=5)
    write_run(tmp_path / "run", trained, StartOptions())
    model = Detector("gn", seed=6)
    load_start(model, StartOptions(weights=str(tmp_path / "run"), part="all"))
    torch.testing.assert_close(model.state_dict(), trained.state_dict(), rtol=0, atol=0)
    other = Detector("gn", seed=6, num_classes=9)
    report = load_start(other, StartOptions(weights=str(tmp_path / "run"), part="all"))
    assert {t.name for t in report.of("wrong shape")} == {"head.weight", "head.bias"}


def test_the_constants_of_a_run_follow_its_weights(tmp_path):
    half = StartOptions(pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.5, 0.5, 0.5))
    write_run(tmp_path / "run", Detector("gn"), half)
    assert normalisation_of(str(tmp_path / "run")) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(UsageError, match=r"set start.pixel_mean=\[0.5,0.5,0.5\]"):
        load_start(Detector("gn"), StartOptions(weights=str(tmp_path / "run")))


@pytest.mark.parametrize(
    ("reference", "mean"),
    [
        ("timm:resnet50.a1_in1k", (0.485, 0.456, 0.406)),
        ("timm:tf_efficientnet_lite0", (0.5, 0.5, 0.5)),
        ("torchvision:ResNet50_Weights.IMAGENET1K_V1", (0.485, 0.456, 0.406)),
        ("torchvision:MaskRCNN_ResNet50_FPN_Weights.COCO_V1", (0.485, 0.456, 0.406)),
    ],
)
def test_normalisation_is_known_without_a_network(reference, mean):
    assert normalisation_of(reference)[0] == mean
    assert normalisation_of(None) is None


@pytest.mark.parametrize("norm", ["gn", "none"])
def test_batch_norm_weights_in_a_model_without_it_name_the_ways_out(tmp_path, norm):
    with pytest.raises(UsageError, match=r"norm mismatch.*norm=frozen_bn.*allow_norm_mismatch=true"):
        load_start(backbone(norm), StartOptions(weights=saved(tmp_path, whole_network())))


def test_group_norm_weights_in_a_batch_norm_model_name_the_way_out(tmp_path):
    path = saved(tmp_path, backbone("gn").state_dict())
    with pytest.raises(UsageError, match=r"norm mismatch.*norm=gn"):
        load_start(backbone("frozen_bn"), StartOptions(weights=path))


def test_an_allowed_mismatch_loads_convolutions_and_keeps_the_norms(tmp_path):
    network = whole_network()
    model = backbone("gn")
    report = load_start(model, StartOptions(weights=saved(tmp_path, network), allow_norm_mismatch=True))
    torch.testing.assert_close(model.body.conv1[0].weight.data, network["conv1.0.weight"], rtol=0, atol=0)
    assert (model.body.bn1.weight == 1).all()
    norms = [m for m in model.modules() if isinstance(m, GroupNorm)]
    assert len(report.of("kept")) == 2 * len(norms)
    assert 99 < report.percent < 100


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path):
    model = backbone(name="resnet34")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DataError, match=r"fills 5\d\.\d % of backbone resnet34.*layer1.2") as caught:
        load_start(model, StartOptions(weights=saved(tmp_path, whole_network("resnet18"))))
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_missing_and_misshapen_tensors_are_named(tmp_path):
    network = whole_network()
    network["conv1.0.weight"] = torch.zeros(9, 10, 7, 7)
    del network["layer1.0.bn1.bias"]
    report = load_start(backbone(), StartOptions(weights=saved(tmp_path, network)))
    text = "\n".join(report.lines())
    assert "wrong shape body.conv1.0.weight" in text
    assert "9x10x7x7 -> " in text
    assert "missing     body.layer1.0.bn1.bias" in text
    assert "body.layer4" not in text
    assert "body.layer4" in "\n".join(report.lines(every=True))


def test_what_the_weights_do_not_fill_is_never_frozen(tmp_path):
    network = whole_network()
    del network["layer1.0.conv1.weight"]
    path = saved(tmp_path, network)
    with pytest.raises(DataError, match="random numbers must not be frozen"):
        load_start(backbone(), StartOptions(weights=path, frozen_stages=2))
    load_start(backbone(), StartOptions(weights=path, frozen_stages=1))
    del network["layer4.0.bn1.running_mean"]
    with pytest.raises(DataError, match=r"layer4.0.bn1.running_mean"):
        load_start(backbone("frozen_bn"), StartOptions(weights=saved(tmp_path, network)))


def test_a_refused_start_freezes_nothing(tmp_path):
    network = whole_network()
    del network["conv1.0.weight"]
    model = backbone()
    with pytest.raises(DataError):
        load_start(model, StartOptions(weights=saved(tmp_path, network), frozen_stages=2))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_frozen_stages_are_frozen(tmp_path):
    model = Detector()
    load_start(model, StartOptions(weights=saved(tmp_path, whole_network()), frozen_stages=2))
    model.train()
    assert not model.backbone.body.layer1.training
    assert not any(p.requires_grad for p in model.backbone.body.layer1.parameters())
    assert all(p.requires_grad for p in model.backbone.body.layer2.parameters())


def test_the_digest_and_not_the_path_identifies_weights(tmp_path):
    path = saved(tmp_path, whole_network())
    report = load_start(backbone(), StartOptions(weights=path))
    load_start(backbone(), StartOptions(weights=path, digest=report.digest))
    with pytest.raises(DataError, match=r"but start\.digest is 000"):
        load_start(backbone(), StartOptions(weights=path, digest="0" * 64))


def test_the_report_is_plain_data(tmp_path):
    report = load_start(backbone(), StartOptions(weights=saved(tmp_path, whole_network())))
    data = json.loads(json.dumps(report.to_json()))
    assert data["percent"] == 100
    assert {t["outcome"] for t in data["tensors"]} == {"loaded", "unexpected"}


def test_names_that_timm_joined_for_features_are_found(tmp_path):
    network = timm.create_model("convnext_atto").state_dict()
    report = load_start(
        build_backbone(BackboneOptions(name="convnext_atto", norm="none")),
        StartOptions(weights=saved(tmp_path, network)),
    )
    assert report.percent == 100


def test_torchvisions_resnet_gives_the_same_features_here(tmp_path):
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18().eval()
    model = backbone("frozen_bn", "resnet18").eval()
    report = load_start(model, StartOptions(weights=saved(tmp_path, theirs.state_dict())))
    assert report.percent == 100
    c5 = nn.Sequential(*list(theirs.children())[:-2])
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[-1], c5(images), rtol=1e-4, atol=1e-4)
