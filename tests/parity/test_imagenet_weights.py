import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import mobilenet_v2

from groundup.errors import DataError
from groundup.models.backbone import BackboneOptions, build_backbone
from groundup.models.classifier import build_imagenet_classifier
from groundup.models.start import StartOptions, load_start, normalisation_of

pytestmark = pytest.mark.shared

LITE0 = "efficientnet_lite0-57934424.pth"
MOBILENET = "mobilenet_v2-dequantized-fp16.pth"
FEATURES = "mobilenet_v2_features-bn.pth"
EVERY = 10
"""Every tenth of the 1000 photographs; benchmarks/imagenet_check.py takes all."""
SIDE, CROP = 256, 224


def photographs(folder, every):
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[::every]
    first = (SIDE - CROP) // 2
    crop = (first, first, first + CROP, first + CROP)
    images = []
    for row in rows:
        with Image.open(folder / row["file"]) as photograph:
            images.append(np.asarray(photograph.convert("RGB").crop(crop)))
    labels = [int(row["class"]) for row in rows]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


@pytest.fixture(scope="module")
def samples(shared_data):
    return photographs(shared_data / "imagenet_samples", EVERY)


def accuracy(classifier, samples):
    images, labels = samples
    found = torch.cat([classifier.classify(chunk, most=1)[:, 0] for chunk in images.split(25)])
    return (found == labels).float().mean().item()


def test_efficientnet_lite0_classifies_photographs_as_well_as_it_should(shared_data, samples):
    """0.84 of these 100, 0.866 of all 1000; symmetric padding would cost 6 points."""
    classifier = build_imagenet_classifier("tf_efficientnet_lite0", str(shared_data / "weights" / LITE0))
    assert accuracy(classifier, samples) == pytest.approx(0.84, abs=0.015)


def test_mobilenet_v2_classifies_photographs_as_well_as_it_should(shared_data, samples):
    """0.83 of these 100, 0.828 of all 1000."""
    classifier = build_imagenet_classifier("mobilenetv2_100", str(shared_data / "weights" / MOBILENET))
    assert accuracy(classifier, samples) == pytest.approx(0.83, abs=0.03)


def test_mobilenet_v2_gives_the_logits_of_torchvisions(shared_data, samples):
    path = shared_data / "weights" / MOBILENET
    ours = build_imagenet_classifier("mobilenetv2_100", str(path))
    theirs = mobilenet_v2().eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    images = samples[0][:2]
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(ours.normalise(images)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["frozen_bn", "bn"])
@pytest.mark.parametrize(("name", "file"), [("tf_efficientnet_lite0", LITE0), ("mobilenetv2_100", MOBILENET)])
def test_the_backbone_of_a_start_gives_the_features_of_the_classifier(shared_data, samples, name, file, norm):
    path = str(shared_data / "weights" / file)
    mean, std = normalisation_of(path)
    backbone = build_backbone(BackboneOptions(name=name, norm=norm))
    report = load_start(backbone, StartOptions(weights=path, pixel_mean=mean, pixel_std=std))
    assert report.percent == 100
    classifier = build_imagenet_classifier(name, path)
    network = classifier.network
    x = classifier.normalise(samples[0][:2])
    with torch.no_grad():
        c5 = network.blocks(network.bn1(network.conv_stem(x)))
        torch.testing.assert_close(backbone.eval()(x)[-1], c5, rtol=1e-4, atol=1e-4)


def test_the_bare_features_of_mobilenet_v2_load_and_equal_torchvisions(shared_data, samples):
    path = shared_data / "weights" / FEATURES
    backbone = build_backbone(BackboneOptions(name="mobilenetv2_100", norm="frozen_bn"))
    report = load_start(backbone, StartOptions(weights=str(path)))
    assert report.percent == 100
    theirs = mobilenet_v2().features.eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    x = samples[0][:2].float() / 255 - 0.5
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(x)[-1], theirs[:18](x), rtol=1e-4, atol=1e-4)


def test_weights_without_a_classifier_make_no_classifier(shared_data):
    with pytest.raises(DataError, match="whole classifier"):
        build_imagenet_classifier("mobilenetv2_100", str(shared_data / "weights" / FEATURES))
