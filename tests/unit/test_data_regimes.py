"""Parts of a set by share, by the paper's names and by number; the same photograph in both splits."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from groundup.config import override
from groundup.data.coco import open_index
from groundup.data.overlap import find_shared
from groundup.data.regimes import REGIMES
from groundup.data.subset import subset_rows
from groundup.errors import DataError, UsageError
from groundup.paper_recipes import mask_rcnn_r50_fpn_gn, mask_rcnn_r50_fpn_gn_35k
from groundup.recipe import DataOptions
from groundup.run import plan_lines
from groundup.splits import open_splits
from groundup.study.plan import build_plan
from groundup.study.points import size_rank
from groundup.tiny_recipes import tiny_faster_rcnn
from small_study import small_study, small_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def train(world):
    return open_index(Path(world["data.train.annotations"]), Path(world["data.train.images"]))


def recipe(world, *more):
    return override(tiny_faster_rcnn(), [*(f"{path}={value}" for path, value in world.items()), *more])


def test_the_papers_regimes_are_shares_of_coco_that_come_out_as_whole_numbers_there():
    assert [round(REGIMES[name] * 118_287) for name in ("35k", "10k", "3.5k", "1k")] == [
        35_000,
        10_000,
        3_500,
        1_000,
    ]
    assert DataOptions.model_validate({"fraction": "3.5k"}).fraction == REGIMES["3.5k"]
    with pytest.raises(ValueError, match="fraction"):
        DataOptions.model_validate({"fraction": "4k"})


def test_an_exact_number_of_images_is_drawn_nested_in_larger_ones_and_in_shares(train):
    size = train.num_images
    parts = [set(subset_rows(train, 1.0, 3, count).tolist()) for count in range(1, size + 1)]
    assert [len(part) for part in parts] == list(range(1, size + 1))
    assert all(small < large for small, large in pairwise(parts))
    assert set(subset_rows(train, 0.5, 3).tolist()) == parts[round(0.5 * size) - 1]
    assert parts[1] != set(subset_rows(train, 1.0, 4, 2).tolist()) or size < 3


def test_more_images_than_there_are_or_two_sizes_at_once_are_refused(world, train):
    with pytest.raises(UsageError, match=f"has {train.num_images} images, so none of 9,999 can be drawn"):
        open_splits(recipe(world, "data.images=9999"))
    with pytest.raises(UsageError, match=r"images is 4 and fraction 0\.5"):
        recipe(world, "data.images=4", "data.fraction=0.5")
    assert open_splits(recipe(world, "data.images=4")).train.num_images == 4


def test_the_recipe_for_35k_images_differs_in_what_the_paper_says_won():
    low, base = mask_rcnn_r50_fpn_gn_35k(), mask_rcnn_r50_fpn_gn()
    assert low.model == base.model
    assert (low.transforms.short_side, low.transforms.short_side_choice) == ((512, 800), "range")
    schedule = low.training.schedule
    assert (schedule.lr, schedule.drop_factor, schedule.units) == (0.04, 0.02, 6.0)
    assert schedule.unit_images == 90_000 * 16
    assert low.training.optimizer == base.training.optimizer


def test_sizes_of_all_kinds_have_one_order():
    ranks = [size_rank(point) for point in ({"data.images": 10}, {"data.images": 200}, {"data.images": None})]
    assert ranks == sorted(ranks)
    assert size_rank({"data.fraction": 0.5}) < size_rank({}) == size_rank({"data.fraction": 1.0}) == ranks[-1]


def test_axes_take_regimes_by_name_and_numbers_of_images(world, tmp_path):
    study = small_study(world, axes={"data.fraction": [1.0, "10k"]})
    assert study.axes["data.fraction"] == [1.0, REGIMES["10k"]]
    counted = small_study(world, axes={"data.images": [2, 4, None]})
    assert [run.num_train for run in build_plan(counted, tmp_path).runs] == [2, 4, 8] * 2


def test_a_photograph_in_both_splits_is_refused_unless_accepted(world, tmp_path):
    train, val = (open_splits(recipe(world)).train, open_splits(recipe(world)).val)
    assert not find_shared(train, val).counts
    copied = tmp_path / "copied"
    shutil.copytree(val.images, copied)
    shutil.copyfile(train.path(0), copied / val.file_name(0))
    mixed = [f"data.val.images={copied}"]
    with pytest.raises(DataError, match=r"1 of \d+ validation photographs are training photographs too"):
        list(plan_lines(recipe(world, *mixed), tmp_path / "run"))
    assert list(plan_lines(recipe(world, *mixed, "data.overlap=accept"), tmp_path / "run"))
