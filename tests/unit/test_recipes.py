"""Recipes say what the paper says, field by field, and differ from each other only where their names do."""

import pytest

from groundup.config import differences, plain, read_tree
from groundup.engine.schedule import drop_points, late_point, total_images, warmup_length
from groundup.errors import DataError, UsageError
from groundup.recipes import RECIPES, resolve_recipe

COCO = 118_287


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_saves_and_reads_back_equal(name):
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert read_tree(type(recipe), plain(recipe)) == recipe


@pytest.mark.parametrize(
    "name", ["mask_rcnn_r50_fpn_gn", "mask_rcnn_r101_fpn_gn", "mask_rcnn_r50_fpn_syncbn"]
)
def test_the_papers_recipes_hold_the_papers_numbers(name):
    recipe = RECIPES[name]()
    schedule, optimizer = recipe.training.schedule, recipe.training.optimizer
    assert (schedule.batch_size, schedule.lr, schedule.units) == (16, 0.02, 2.0)
    assert total_images(schedule, COCO) == 180_000 * 16
    assert drop_points(schedule, COCO) == (120_000 * 16, 160_000 * 16)
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.clip) == (0.9, 1e-4, "none")
    assert optimizer.preset == "detectron"
    assert (recipe.transforms.short_side, recipe.transforms.max_side, recipe.transforms.flip) == (
        (800,),
        1333,
        0.5,
    )
    assert recipe.start.weights is None
    assert recipe.start.frozen_stages == 0
    norm = "syncbn" if "syncbn" in name else "gn"
    model = recipe.model
    assert {model.backbone.norm, model.fpn.norm, model.box_head.norm, model.mask_head.norm} == {norm}
    assert (model.box_head.num_convs, model.box_head.num_fcs, model.box_head.fc_channels) == (4, 1, 1024)
    assert (model.rois.rois_per_image, model.rois.positive_fraction, model.loss_images) == (512, 0.25, 2)
    assert (model.rpn.anchors_per_image, model.rpn.nms_threshold) == (256, 0.7)
    assert model.init == "detectron"


@pytest.mark.parametrize(
    ("name", "plain_name"),
    [
        ("cascade_mask_rcnn_r50_fpn_gn", "mask_rcnn_r50_fpn_gn"),
        ("cascade_mask_rcnn_r101_fpn_gn", "mask_rcnn_r101_fpn_gn"),
        ("cascade_mask_rcnn_x152_fpn_gn", "mask_rcnn_x152_fpn_gn"),
    ],
)
def test_the_papers_cascade_differs_from_its_plain_system_where_the_paper_says_so(name, plain_name):
    recipe = RECIPES[name]()
    changed = differences([RECIPES[plain_name](), recipe])
    assert {path for path in changed if not path.startswith("model.cascade")} == {
        "name",
        "model.box_head.class_agnostic",
        "transforms.short_side",
        "training.schedule.units",
        "training.schedule.late_units",
    }
    schedule = recipe.training.schedule
    assert total_images(schedule, COCO) == 810_000 * 16
    assert late_point(schedule, COCO) == (810_000 - 270_000) * 16
    assert (min(recipe.transforms.short_side), max(recipe.transforms.short_side)) == (640, 800)
    model = recipe.model
    assert (model.rois.fg_iou, *model.cascade.ious) == (0.5, 0.6, 0.7)
    assert (model.box_head.box_weights, *model.cascade.box_weights) == (
        (10, 10, 5, 5),
        (20, 20, 10, 10),
        (30, 30, 15, 15),
    )


def test_a_late_cascade_needs_a_cascade():
    with pytest.raises(UsageError, match="no cascade that could come late"):
        resolve_recipe("mask_rcnn_r50_fpn_gn", ["training.schedule.late_units=1"])
    with pytest.raises(UsageError, match="class_agnostic"):
        resolve_recipe("mask_rcnn_r50_fpn_gn", ["model.cascade={}"])


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("mask_rcnn_r50_fpn_lsj", 1),
        ("mask_rcnn_r50_fpn_lsj_copy_paste", 1),
        ("mask_rcnn_r50_fpn_lsj_200ep", 2),
        ("mask_rcnn_r50_fpn_lsj_400ep", 4),
    ],
)
def test_the_large_scale_jitter_recipes_hold_detectron2s_numbers(name, times):
    recipe = RECIPES[name]()
    schedule, optimizer, jitter = (
        recipe.training.schedule,
        recipe.training.optimizer,
        recipe.transforms.large_scale_jitter,
    )
    assert total_images(schedule, COCO) == times * 184_375 * 64
    assert drop_points(schedule, COCO) == (times * 163_889 * 64, times * 177_546 * 64)
    assert (schedule.batch_size, schedule.lr, schedule.drop_factor) == (64, 0.1, 0.1)
    assert (warmup_length(schedule, COCO), schedule.warmup_start) == (500 * 64, 0.067)
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.preset) == (0.9, 4e-5, "detectron2")
    assert (jitter.size, jitter.smallest, jitter.largest, recipe.transforms.flip) == (1024, 0.1, 2.0, 0.5)
    assert recipe.training.precision == "fp16"
    assert (recipe.start.weights, recipe.start.frozen_stages) == (None, 0)
    model = recipe.model
    assert {model.backbone.norm, model.fpn.norm, model.box_head.norm, model.mask_head.norm} == {"syncbn"}
    assert (model.rpn.conv_depth, model.box_head.num_convs, model.box_head.num_fcs) == (2, 4, 1)
    assert model.box_head.smooth_l1_beta == 0
    assert (model.box_head.pool.sampling_ratio, model.box_head.pool.aligned) == (0, True)


def test_copy_paste_is_what_the_copy_paste_recipe_adds():
    plain_recipe, pasting = RECIPES["mask_rcnn_r50_fpn_lsj"](), RECIPES["mask_rcnn_r50_fpn_lsj_copy_paste"]()
    changed = set(differences([plain_recipe, pasting])) - {"name", "transforms.copy_paste"}
    assert all(name.startswith("transforms.copy_paste.") for name in changed)


def test_the_papers_scale_augmentation_is_a_change_of_sides_alone():
    base = RECIPES["mask_rcnn_r50_fpn_gn"]()
    longer = resolve_recipe(
        "mask_rcnn_r50_fpn_gn", ["transforms.short_side=paper", "training.schedule.units=9"]
    )
    assert set(differences([base, longer])) == {"transforms.short_side", "training.schedule.units"}
    assert longer.transforms.short_side == (640, 672, 704, 736, 768, 800)
    assert total_images(longer.training.schedule, COCO) == 810_000 * 16
    assert drop_points(longer.training.schedule, COCO) == (750_000 * 16, 790_000 * 16)


def test_swapping_the_start_changes_the_start_and_nothing_else():
    scratch = resolve_recipe("mask_rcnn_r50_fpn_gn", ["start=scratch"])
    tuned = resolve_recipe(
        "mask_rcnn_r50_fpn_gn", ["start.weights=timm:resnet50_gn.a1h_in1k", "start.frozen_stages=2"]
    )
    assert set(differences([scratch, tuned])) == {"start.weights", "start.frozen_stages"}


def test_the_short_start_fills_in_what_is_known(tmp_path):
    with pytest.raises(DataError, match="no such weights"):
        resolve_recipe("tiny_mask_rcnn", [f"start={tmp_path / 'absent.pth'}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["start.frozen_stages=2"], "random weights must not be frozen"),
        (["model.backbone.norm=frozen_bn"], "frozen_bn"),
        (["model.backbone.nrom=gn"], "did you mean 'model.backbone.norm'"),
        (["training.accumulate=5"], "divide"),
    ],
)
def test_a_recipe_that_lies_cannot_be_made(overrides, message):
    with pytest.raises(UsageError, match=message):
        resolve_recipe("mask_rcnn_r50_fpn_gn", overrides)


def test_an_unknown_recipe_is_met_with_a_near_name():
    with pytest.raises(UsageError, match="did you mean 'tiny_mask_rcnn'"):
        resolve_recipe("tiny_mask_rcn", [])


def test_a_yaml_recipe_builds_on_a_named_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: tiny_faster_rcnn\nname: mine\nseed: 3\ntraining:\n  schedule:\n    units: 2\n")
    mine = resolve_recipe(str(path), ["seed=4"])
    assert (mine.name, mine.seed, mine.training.schedule.units) == ("mine", 4, 2.0)
    assert set(differences([mine, RECIPES["tiny_faster_rcnn"]()])) == {
        "name",
        "seed",
        "training.schedule.units",
    }


def test_a_yaml_recipe_may_fill_a_section_that_is_off_and_name_its_start_in_short(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "recipe: tiny_mask_rcnn\nstart: scratch\ntraining.accumulate: 2\n"
        "transforms:\n  large_scale_jitter:\n    size: 64\n"
    )
    mine = resolve_recipe(str(path), [])
    assert mine.transforms.large_scale_jitter is not None
    assert mine.transforms.large_scale_jitter.size == 64
    assert mine.training.accumulate == 2
    path.write_text(f"recipe: tiny_mask_rcnn\nstart: {tmp_path / 'absent.pth'}\n")
    with pytest.raises(DataError, match="no such weights"):
        resolve_recipe(str(path), [])
    assert resolve_recipe(str(path), ["start=scratch"]).start.weights is None


@pytest.mark.parametrize("base", ["[tiny_mask_rcnn]", "{a: 1}", "3", "tiny"])
def test_a_yaml_recipe_that_builds_on_nothing_is_refused(tmp_path, base):
    path = tmp_path / "mine.yaml"
    path.write_text(f"recipe: {base}\n")
    with pytest.raises(UsageError, match="no recipe"):
        resolve_recipe(str(path), [])


def test_the_papers_keypoint_recipe_holds_the_papers_numbers():
    recipe = RECIPES["keypoint_rcnn_r50_fpn_gn"]()
    schedule, model = recipe.training.schedule, recipe.model
    # The unit is the paper's, though the set with keypoints is smaller.
    assert total_images(schedule, 56_599) == 180_000 * 16
    assert drop_points(schedule, 56_599) == (120_000 * 16, 160_000 * 16)
    assert recipe.transforms.short_side == (640, 672, 704, 736, 768, 800)
    assert recipe.data.min_keypoints == 1
    assert model.mask_head is None
    assert {model.backbone.norm, model.fpn.norm, model.box_head.norm} == {"gn"}
    head = model.keypoint_head
    assert (head.num_convs, head.channels, head.pool.resolution, head.enlargement) == (8, 512, 14, 2)
    changed = differences([recipe, RECIPES["faster_rcnn_r50_fpn_gn"]()])
    assert {name for name in changed if not name.startswith("model.keypoint_head")} == {
        "name",
        "data.min_keypoints",
        "transforms.short_side",
        "training.schedule.unit_images",
    }


def test_torchvisions_keypoint_recipe_runs_its_epochs():
    recipe = RECIPES["keypoint_rcnn_r50_fpn_torchvision"]()
    schedule = recipe.training.schedule
    assert total_images(schedule, 16_000) == 46 * 16_000
    assert drop_points(schedule, 16_000) == (36 * 16_000, 43 * 16_000)
    assert recipe.data.min_keypoints == 10
    assert recipe.training.optimizer.preset == "torchvision"
