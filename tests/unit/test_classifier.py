import pytest
import torch
from torch.nn import functional as F

from groundup.models.backbone import BackboneOptions
from groundup.models.classifier import (
    ClassifierOptions,
    FeatureBatch,
    build_classifier,
    drop,
    pool_valid,
)
from groundup.models.start import StartOptions, load_start
from groundup.structures import Batch

SMALL = BackboneOptions(name="resnet10t", norm="gn")


def some_batch(sizes, side=64, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    num = len(sizes)
    images = torch.randint(0, 256, (num, 3, side, side), generator=generator, dtype=torch.uint8)
    return Batch(
        images=images,
        sizes=torch.tensor(sizes),
        original_sizes=torch.tensor(sizes),
        boxes=torch.zeros(num, 1, 4),
        labels=torch.randint(0, num_classes, (num, 1), generator=generator),
        masks=None,
        keypoints=None,
        image_ids=torch.arange(num),
        seeds=torch.arange(num) + 5,
    )


def small_classifier(num_classes=3, **options):
    torch.manual_seed(0)
    return build_classifier(
        ClassifierOptions(backbone=SMALL, **options),
        num_classes=num_classes,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
    )


def test_pooling_is_the_mean_over_the_cells_an_image_covers():
    maps = torch.rand(2, 5, 3, 4)
    pooled = pool_valid(maps, torch.tensor([[96, 128], [32, 64]]), 32)
    torch.testing.assert_close(pooled[0], maps[0].mean(dim=(1, 2)))
    torch.testing.assert_close(pooled[1], maps[1, :, :1, :2].mean(dim=(1, 2)))


def test_a_cell_that_is_half_covered_counts_by_half():
    maps = torch.tensor([[[[1.0, 4.0]]]])
    assert pool_valid(maps, torch.tensor([[32, 48]]), 32).item() == pytest.approx((1 + 0.5 * 4) / 1.5)


def test_what_lies_in_the_padding_is_not_seen():
    model = small_classifier().eval()
    batch = some_batch([(64, 40), (32, 64)])
    changed = batch.images.clone()
    changed[0, :, :, 40:] = 255
    changed[1, :, 32:] = 7
    other = Batch(**{name: getattr(batch, name) for name in Batch.__slots__} | {"images": changed})
    torch.testing.assert_close(model.classify(batch), model.classify(other), rtol=0, atol=0)


def test_the_loss_is_the_cross_entropy_and_scores_are_probabilities():
    model = small_classifier(label_smoothing=0.1).eval()
    batch = some_batch([(64, 64)] * 4)
    expected = F.cross_entropy(model.logits(batch), batch.labels[:, 0], label_smoothing=0.1)
    torch.testing.assert_close(model.losses(batch)["loss_class"], expected)
    torch.testing.assert_close(model.classify(batch).sum(dim=1), torch.ones(4))


def test_dropout_is_a_function_of_the_sample_and_keeps_the_mean():
    features, seeds = torch.rand(6, 4000), torch.arange(6)
    dropped = drop(features, seeds, 0.3)
    torch.testing.assert_close(dropped[2:4], drop(features[2:4], seeds[2:4], 0.3), rtol=0, atol=0)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean().item() == pytest.approx(features.mean().item(), rel=0.02)
    assert not torch.equal(dropped[0] == 0, dropped[1] == 0)


def test_known_features_give_the_logits_of_their_photographs():
    model = small_classifier(hidden=8, dropout=0.5).train()
    batch = some_batch([(64, 64), (48, 64)])
    known = FeatureBatch(
        **{name: getattr(batch, name) for name in Batch.__slots__}, features=model.features(batch).detach()
    )
    torch.testing.assert_close(model.logits(known), model.logits(batch))


def test_a_classifiers_weights_start_a_classifier_and_leave_the_other_head_alone(tmp_path):
    first, second = small_classifier(hidden=8), small_classifier(hidden=8)
    for parameter in first.parameters():
        torch.nn.init.normal_(parameter)
    torch.save(first.state_dict(), tmp_path / "model.pth")
    fresh = second.head.fc.weight.clone()
    report = load_start(second, StartOptions(weights=str(tmp_path / "model.pth")))
    assert report.percent == 100
    assert not report.of("missing", "unexpected", "wrong shape")
    torch.testing.assert_close(second.backbone.state_dict(), first.backbone.state_dict())
    torch.testing.assert_close(second.head.fc.weight, fresh)
    report = load_start(second, StartOptions(weights=str(tmp_path / "model.pth"), part="all"))
    assert not report.of("missing", "unexpected", "wrong shape", "outside")
    torch.testing.assert_close(second.state_dict(), first.state_dict())
