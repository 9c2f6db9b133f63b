"""torchvision's detectors made to choose as ours do, so that losses can be compared number by number."""

import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from groundup.models.rois import GT_CODES
from groundup.models.torchvision_detectors import detector_from_torchvision
from groundup.ops.sampling import ANCHOR_STREAM, ROI_STREAM, choose_balanced, random_keys

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRADIENT_TOLERANCE = 1e-2
"""Of float32 through fifty layers of batch norm, each side in its own order of sums."""


class WithoutResize(GeneralizedRCNNTransform):
    def resize(self, image, target=None):
        return image, target


class OurSampler:
    """torchvision's sampler with our choices."""

    def __init__(self, codes, seeds, stream, num_slots, max_positives):
        self.codes, self.seeds, self.stream = codes, seeds, stream
        self.num_slots, self.max_positives = num_slots, max_positives

    def __call__(self, labels):
        positives, negatives = [], []
        for image, label in enumerate(labels):
            keys = random_keys(self.seeds[image : image + 1], self.codes(image, len(label)), self.stream)
            chosen = choose_balanced(
                label[None] >= 1,
                label[None] == 0,
                keys,
                num_slots=self.num_slots,
                max_positives=self.max_positives,
            )
            masks = torch.zeros(2, len(label), dtype=torch.uint8)
            masks[0, chosen.index[chosen.is_positive]] = 1
            masks[1, chosen.index[chosen.is_filled & ~chosen.is_positive]] = 1
            positives.append(masks[0])
            negatives.append(masks[1])
        return positives, negatives


def losses_of_both(ours, batch, peer, images, targets):
    """Our losses and torchvision's, both of the anchors and RoIs that ours samples."""
    found = []
    hook = ours.rpn.register_forward_hook(lambda module, inputs, output: found.append(output))
    our_losses = ours.losses(batch)
    hook.remove()
    rois = ours.options.rois
    peer.rpn.fg_bg_sampler = OurSampler(
        lambda image, num: found[0].anchors.codes[None], batch.seeds, ANCHOR_STREAM, 256, 128
    )

    # Proposals of equal score may come in another order (torchvision's sort is not stable), so the choice
    # goes by the box: which of our proposals it is.
    proposals = ours.rpn.propose(found[0], batch.sizes, is_training=True, group_size=len(images))
    peer_proposals = []
    hook = peer.rpn.register_forward_hook(lambda module, inputs, output: peer_proposals.extend(output[0]))

    def roi_codes(image, num):
        num_gt = len(targets[image]["boxes"])
        assert num == len(peer_proposals[image]) + num_gt == int(proposals.is_filled[image].sum()) + num_gt
        row = torch.cdist(peer_proposals[image], proposals.boxes[image], p=1).argmin(dim=1)
        return torch.cat([row, torch.arange(num_gt) + GT_CODES])[None]

    peer.roi_heads.fg_bg_sampler = OurSampler(
        roi_codes, batch.seeds, ROI_STREAM, rois.rois_per_image, rois.max_positives
    )
    peer_losses = peer(images, targets)
    hook.remove()
    return our_losses, peer_losses


def compare_gradients(ours, our_losses, peer, peer_losses):
    """What a step would change, tensor by tensor, relative to the tensor's norm."""
    for losses in (our_losses, peer_losses):
        sum(losses.values()).backward()
    state = peer.state_dict()
    state |= {name: weight.grad for name, weight in peer.named_parameters()}
    expected = detector_from_torchvision(state)
    largest = max(weight.grad.norm() for weight in ours.parameters())
    for name, weight in ours.named_parameters():
        error = (weight.grad - expected[name].view_as(weight)).norm()
        floor = 1e-6 * largest  # of weights before a batch norm, whose gradient is rounding alone
        assert error <= GRADIENT_TOLERANCE * expected[name].norm() + floor, name


def follow_the_last_batch(*models):
    """Let detection run on the statistics of the training step."""
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
