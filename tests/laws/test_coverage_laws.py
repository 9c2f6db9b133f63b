"""The statistics on simulated detectors of known difference: coverage, false equivalence, A/A.

The fast versions guard against gross faults; the slow ones are the study itself: 500 data sets each.
Both arms see the same images; an arm has images that it finds easier in all its trainings; seeds differ
in quality and in every single detection.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from groundup.metrics.bootstrap import EndpointSample, bootstrap_endpoints, draw_weights
from groundup.study.difference import measure_difference
from groundup.study.verdict import judge
from match_tables import draw_images, draw_table

NUM_IMAGES, NUM_SEEDS, NUM_REPLICATES = 150, 3, 300
SEED_NOISE = 0.1
"""Spread of quality in logits: about 1.5 AP points between trainings."""
TASTE = 0.6
"""Spread of what an arm finds easier in an image than the other does, in logits."""
QUALITIES = {"same": (0.5, 0.5), "apart": (0.5, 0.65)}


@dataclass(frozen=True)
class World:
    quality: tuple[float, float]
    seed_noise: float = SEED_NOISE
    num_seeds: int = NUM_SEEDS

    def arms(self, random, num_images=NUM_IMAGES, num_replicates=NUM_REPLICATES) -> list[EndpointSample]:
        images = draw_images(random, num_images)
        weights = draw_weights(num_images, num_replicates, int(random.integers(1 << 30)))
        arms = []
        for quality in self.quality:
            own = with_taste(random, images)
            tables = [
                draw_table(
                    random,
                    num_images=num_images,
                    quality=quality,
                    per_image=own,
                    seed_noise=self.seed_noise,
                )
                for _ in range(self.num_seeds)
            ]
            arms.append(bootstrap_endpoints(tables, weights, ["AP"])["AP"])
        return arms

    def true_delta(self, num_worlds: int) -> float:
        """Candidate minus reference over many images and trainings.

        Both arms share the draws of every world, which takes most of the chance out of the mean.
        """
        if self.quality[0] == self.quality[1]:
            return 0.0
        deltas = []
        for world in range(num_worlds):
            points = []
            for quality in self.quality:
                random = np.random.default_rng([77, world])
                images = with_taste(random, draw_images(random, 4000))
                table = draw_table(
                    random, num_images=4000, quality=quality, per_image=images, seed_noise=self.seed_noise
                )
                weights = np.ones((4000, 1), dtype=np.int32)
                points.append(bootstrap_endpoints([table], weights, ["AP"])["AP"].points[0])
            deltas.append(points[0] - points[1])
        return float(np.mean(deltas))


def with_taste(random, images):
    return images + np.stack([np.zeros(len(images)), TASTE * random.normal(size=len(images))], axis=1)


def study(world, true_delta, num_sets, seed):
    """Shares of data sets: interval covers, called different, called equivalent at |true delta|."""
    covered, different, equivalent = [], [], []
    for number in range(num_sets):
        difference = measure_difference(*world.arms(np.random.default_rng([seed, number])))
        low, high = difference.interval(0.95)
        covered.append(low <= true_delta <= high)
        verdict = judge(difference, margin=max(abs(true_delta), 1e-6))
        different.append(verdict.kind.endswith("ahead"))
        narrow = verdict.equivalence_interval
        equivalent.append(-verdict.margin < narrow[0] and narrow[1] < verdict.margin)
    return tuple(float(np.mean(share)) for share in (covered, different, equivalent))


@pytest.mark.parametrize(("name", "num_worlds"), [("same", 0), ("apart", 16)])
def test_the_interval_covers_and_nothing_false_is_claimed_too_often(name, num_worlds):
    world = World(QUALITIES[name])
    num_sets = 24
    covered, different, equivalent = study(world, world.true_delta(num_worlds), num_sets, seed=1)
    assert covered >= 0.8
    assert equivalent <= 0.15
    if name == "same":
        assert different <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize("seed_noise", [0.0, SEED_NOISE])
def test_500_data_sets_of_known_difference_are_covered_and_not_called_equivalent_at_the_margin(seed_noise):
    world = World(QUALITIES["apart"], seed_noise)
    true_delta = world.true_delta(300)
    covered, different, equivalent = study(world, true_delta, 500, seed=2)
    print(f"noise {seed_noise}: delta {true_delta:.2f}, covered {covered:.3f},")
    print(f"  different {different:.3f}, false equivalence {equivalent:.3f}")
    assert 0.93 <= covered <= 0.97
    assert equivalent <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("seed_noise", [0.0, SEED_NOISE])
def test_500_pairs_of_the_same_arm_are_called_different_in_at_most_5_per_cent(seed_noise):
    covered, different, _ = study(World(QUALITIES["same"], seed_noise), 0.0, 500, seed=3)
    print(f"noise {seed_noise}: A/A covered {covered:.3f}, different {different:.3f}")
    assert different <= 0.05
    assert covered >= 0.93
