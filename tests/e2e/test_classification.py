"""Classifiers as runs: what is learnt, frozen, cached, stopped and gone on with, and handed to detectors."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch

from command_line import groundup
from groundup import classification
from groundup.classification import ClassifierRecipe, evaluate_classifier_run, train_classifier_run
from groundup.config import differences, override, plain, read_tree
from groundup.data.coco import Category
from groundup.data.world import ObjectOptions, write_object_world
from groundup.engine.checkpoint import load_weights
from groundup.errors import Interrupted, UsageError
from groundup.models.start import load_start, normalisation_of
from groundup.recipes import RECIPES, resolve_recipe
from groundup.run import build_model
from processes import in_processes
from small_training import lines_of

TWO = ObjectOptions(forms=("ring", "leaf"), textures=("stripes",), side=64, min_size=0.9, max_distractors=0)
SMALL = [
    "data.fraction=0.25",
    "transforms.short_side=[32]",
    "transforms.max_side=32",
    "transforms.test_short_side=32",
    "transforms.test_max_side=32",
]
HALF = ["start.pixel_mean=[0.5,0.5,0.5]", "start.pixel_std=[0.5,0.5,0.5]"]
SHORT = [
    "loader.num_workers=0",
    "training.schedule.lr=0.01",
    "training.optimizer.name=sgd",
    "training.optimizer.weight_decay=0.0001",
    "training.schedule.units=null",
    "training.schedule.batch_size=8",
    "training.upkeep.tensorboard=false",
    "training.upkeep.log_every=32",
]
CLASSIFIERS = [name for name, build in RECIPES.items() if isinstance(build(), ClassifierRecipe)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_object_world(tmp_path_factory.mktemp("objects"), 256, 48, 0, TWO)


def short_recipe(folders, images, *changes, name="tiny_classifier"):
    return override(
        RECIPES[name](),
        [
            f"data.train={folders.train}",
            f"data.val={folders.val}",
            *SHORT,
            f"training.schedule.images={images}",
            f"training.schedule.unit_images={images}",
            *changes,
        ],
    )


@pytest.fixture(scope="module")
def learnt(folders, tmp_path_factory):
    """A classifier trained long enough to be better than chance."""
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    recipe = short_recipe(folders, 640, "transforms.crop=null", "training.schedule.warmup_images=32", *HALF)
    return folder, recipe, train_classifier_run(recipe, folder, quiet=True)


def features_recipe(folders, run, *changes, images=64):
    return short_recipe(
        folders,
        images,
        f"start.weights={run}",
        "start.frozen_stages=5",
        *HALF,
        *SMALL,
        "model.hidden=16",
        "model.dropout=0.5",
        *changes,
    )


def test_two_drawn_classes_are_told_apart(learnt):
    folder, _, result = learnt
    assert result["metrics"]["class/top1"] > 0.65
    assert result["exposure"]["images"] == result["images_seen"] == 640
    assert result["exposure"]["pixels"] == 640 * 64 * 64
    assert result["exposure"]["flops"] > 0
    record = json.loads((folder / "record.json").read_text())
    assert [category["name"] for category in record["categories"]] == ["leaf-stripes", "ring-stripes"]
    assert sum(record["counts"].values()) == 256
    assert json.loads((folder / "start.json").read_text())["source"] == "scratch"


def test_an_evaluation_keeps_the_scores_of_every_image(learnt):
    folder, _, result = learnt
    kept = folder / "evaluations" / "images_000000640"
    metrics = json.loads((kept / "metrics.json").read_text())
    assert metrics["metrics"] == result["metrics"]
    with np.load(kept / "predictions.npz") as found:
        right = (found["scores"].argmax(axis=1) == found["labels"]).mean()
        assert found["files"][0].endswith(".jpg")
    assert right == result["metrics"]["class/top1"] == metrics["class"]["top1"]["value"]
    low, high = metrics["class"]["top1"]["interval"]
    assert low < right <= high


def test_a_finished_run_is_judged_again_alike(learnt, tmp_path):
    folder, _, result = learnt
    found = evaluate_classifier_run(folder, out=tmp_path)
    assert found.metrics == pytest.approx(result["metrics"])
    assert found.lines()[0].startswith("top-1")


def test_the_command_line_tells_a_classifier_from_a_detector(learnt, folders):
    folder, _, result = learnt
    bad = folders.val.parent / "bad"
    (bad / "a").mkdir(parents=True)
    (bad / "a" / "1.jpg").write_bytes(b"no picture")
    data = [f"data.train={folders.train}", f"data.val={folders.val}"]
    judged, drawn, config, init, plan, stats, checked = (
        groundup(*words)
        for words in (
            ["evaluate", folder, "--json"],
            ["evaluate", folder, "--pictures", 2],
            ["config", "tiny_classifier"],
            ["config", "tiny_classifier", "--init"],
            ["train", "tiny_classifier", *data, "--dry-run"],
            ["data", "stats", folders.train],
            ["data", "check", bad],
        )
    )
    assert json.loads(judged.stdout)["metrics"] == pytest.approx(result["metrics"])
    assert "scored on class folders" in drawn.stderr
    assert "task: classification" in config.stdout
    assert "head.fc" in init.stdout
    assert "train      256 images" in plan.stdout
    assert "256 in 2 classes" in stats.stdout
    assert (checked.returncode, "bad/a/1.jpg" in checked.stdout) == (3, True)


def test_a_stopped_run_goes_on_to_the_bits_of_one_that_was_not(folders, tmp_path, monkeypatch):
    recipe = short_recipe(folders, 96, *SMALL, "model.dropout=0.5", "training.upkeep.checkpoint_every=32")
    straight = train_classifier_run(recipe, tmp_path / "straight", quiet=True)
    whole = classification.train_batches

    def signalling(*arguments, **options):
        """The loader's own batches, and a SIGTERM to this process with the fourth."""
        for number, batch in enumerate(whole(*arguments, **options)):
            if number == 3:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(classification, "train_batches", signalling)
        for _ in range(2):
            with pytest.raises(Interrupted, match="SIGTERM"):
                train_classifier_run(recipe, tmp_path / "resumed", quiet=True)
    resumed = train_classifier_run(recipe, tmp_path / "resumed", quiet=True)
    first, second = load_weights(tmp_path / "straight"), load_weights(tmp_path / "resumed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert straight["metrics"] == resumed["metrics"]
    with pytest.raises(UsageError, match=r"model\.dropout: 0\.5 there, 0\.0 here"):
        train_classifier_run(short_recipe(folders, 96, *SMALL), tmp_path / "straight", quiet=True)


def test_a_classifiers_run_is_a_detectors_start(learnt):
    folder, _, _ = learnt
    recipe = resolve_recipe("tiny_faster_rcnn", [f"start={folder}"])
    assert recipe.start.pixel_mean == (0.5, 0.5, 0.5)
    assert normalisation_of(str(folder)) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model = build_model(recipe, [Category(id=1, name="thing")])
    report = load_start(model, recipe.start)
    assert report.percent == 100
    assert not report.of("missing", "unexpected", "wrong shape")
    weights = load_weights(folder)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, weights[f"backbone.{name}"]), name
    with pytest.raises(UsageError, match="was trained with"):
        load_start(model, override(recipe, ["start.pixel_mean=[0.4,0.4,0.4]"]).start)


def test_cached_features_teach_the_head_what_computed_ones_do(folders, learnt, tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    run, _, _ = learnt
    # Without augmentation both see the same pictures, in the same order, with the same dropout.
    plainly = ("transforms.flip=0", "transforms.crop=null")
    computed = train_classifier_run(
        features_recipe(folders, run, *plainly), tmp_path / "computed", quiet=True
    )
    recipe = features_recipe(folders, run, *plainly, "features=cached")
    cached = train_classifier_run(recipe, tmp_path / "cached", quiet=True)
    first, second = load_weights(tmp_path / "computed"), load_weights(tmp_path / "cached")
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    assert cached["metrics"]["class/loss"] == pytest.approx(computed["metrics"]["class/loss"], rel=1e-3)
    bill = json.loads((tmp_path / "cached" / "features.json").read_text())["train"]
    assert bill["exposure"]["images"] == bill["shape"][0] == 64
    head = cached["exposure"]["flops"] - bill["exposure"]["flops"]
    assert bill["exposure"]["flops"] > 100 * head > 0
    assert cached["features_exposure"] == bill["exposure"]
    # A finished run asked for again is billed once.
    assert train_classifier_run(recipe, tmp_path / "cached", quiet=True) == cached
    # Another head finds the features there; the same run judged on photographs gives the same.
    kept = json.loads((tmp_path / "cached" / "features.json").read_text())
    train_classifier_run(override(recipe, ["model.hidden=8"]), tmp_path / "other", quiet=True)
    assert json.loads((tmp_path / "other" / "features.json").read_text()) == kept
    judged = evaluate_classifier_run(tmp_path / "cached", out=tmp_path / "judged")
    assert judged.metrics["class/loss"] == pytest.approx(cached["metrics"]["class/loss"], rel=1e-4)


def test_what_is_frozen_stays_to_the_bit_statistics_included(folders, learnt, tmp_path):
    run, _, _ = learnt
    head = train_classifier_run(features_recipe(folders, run, images=16), tmp_path / "head", quiet=True)
    assert head["images_seen"] == 16
    before = load_weights(run)
    after = load_weights(tmp_path / "head")
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("backbone."))
    tuned = features_recipe(folders, tmp_path / "head", "start.frozen_stages=4", "start.part=all", images=16)
    train_classifier_run(tuned, tmp_path / "tuned", quiet=True)
    report = json.loads((tmp_path / "tuned" / "start.json").read_text())
    assert {tensor["outcome"] for tensor in report["tensors"]} == {"loaded"}
    last = load_weights(tmp_path / "tuned")
    moved = {name for name in last if not torch.equal(last[name], after[name])}
    assert moved
    assert all(name.startswith(("backbone.body.layer4.", "head.")) for name in moved)


def test_statistics_of_frozen_batch_norms_stay(folders, tmp_path):
    bn = (*SMALL, "model.backbone.norm=bn")
    train_classifier_run(short_recipe(folders, 8, *bn), tmp_path / "first", quiet=True)
    frozen = short_recipe(folders, 16, *bn, f"start.weights={tmp_path / 'first'}", "start.frozen_stages=3")
    train_classifier_run(frozen, tmp_path / "second", quiet=True)
    before, after = load_weights(tmp_path / "first"), load_weights(tmp_path / "second")
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    moved = {name for name in statistics if not torch.equal(before[name], after[name])}
    assert moved == {name for name in statistics if ".layer3." in name or ".layer4." in name}


def test_captured_steps_of_a_classifier_are_refused_in_one_line():
    with pytest.raises(UsageError, match=r"training\.capture=false") as caught:
        resolve_recipe("tiny_classifier", ["training.capture=true"])
    assert "\n" not in str(caught.value)


def test_cached_features_of_a_backbone_that_learns_are_refused():
    with pytest.raises(UsageError, match="features=cached needs a backbone that never changes"):
        override(RECIPES["dogs_cats_features"](), ["start.frozen_stages=4"])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_recipe_saves_and_reads_back_equal(name, tmp_path):
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert read_tree(ClassifierRecipe, plain(recipe)) == recipe
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(plain(recipe)))
    assert resolve_recipe(str(path), []) == recipe


def test_features_and_tuning_stand_on_one_network():
    rows = [RECIPES["dogs_cats_features"](), RECIPES["dogs_cats_finetuned"]()]
    assert not any(name.startswith(("model", "data", "transforms")) for name in differences(rows))


@pytest.mark.shared
def test_imagenet_features_tell_cats_from_dogs(shared_data, tmp_path, monkeypatch):
    """0.975 on 400 with all 1280 features (the data's README); here 96 to learn from, and 320."""
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "few"
    for split, count in (("train", 48), ("val", 32)):
        for kind in ("cat", "dog"):
            folder = root / split / kind
            folder.mkdir(parents=True)
            for path in sorted((shared_data / "dogs_cats" / split / kind).iterdir())[:count]:
                (folder / path.name).write_bytes(path.read_bytes())
    recipe = override(
        RECIPES["dogs_cats_features"](),
        [
            f"data.train={root / 'train'}",
            f"data.val={root / 'val'}",
            f"start.weights={shared_data / 'weights' / 'efficientnet_lite0-57934424.pth'}",
            "transforms.test_short_side=128",
            "transforms.test_max_side=128",
            "loader.num_workers=0",
            "training.schedule.units=2",
            "training.schedule.lr=0.001",
            "training.upkeep.tensorboard=false",
        ],
    )
    assert train_classifier_run(recipe, tmp_path / "run", quiet=True)["metrics"]["class/top1"] > 0.85


def classifier_part(recipe, folder):
    result = train_classifier_run(recipe, folder, quiet=True)
    result["exposure"].pop("seconds")
    return result


def judged_part(run, out):
    return evaluate_classifier_run(run, out=out).metrics


@pytest.mark.parametrize("size", [2, 5])
def test_several_processes_judge_a_classifier_to_the_bytes_of_one(size, learnt, tmp_path):
    """Of 48 photographs in batches of 16, two of five processes have none."""
    run, recipe, _ = learnt
    assert recipe.evaluation.batch_size == 64
    small = tmp_path / "run"
    shutil.copytree(run, small)
    values = json.loads((small / "recipe.json").read_text())
    values["evaluation"]["batch_size"] = 16
    (small / "recipe.json").write_text(json.dumps(values))
    alone = judged_part(small, tmp_path / "alone")
    assert in_processes(size, judged_part, small, tmp_path / "shared") == [alone] * size
    one, several = ((tmp_path / name / "predictions.npz").read_bytes() for name in ("alone", "shared"))
    assert one == several
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("alone", "shared")]
    assert scores[0] | {"seconds": 0} == scores[1] | {"seconds": 0}


def test_several_processes_train_the_classifier_of_one(folders, tmp_path):
    recipe = short_recipe(folders, 32, *SMALL, "model.dropout=0.5", "training.upkeep.log_every=8")
    alone = classifier_part(recipe, tmp_path / "one")
    for number, part in enumerate(in_processes(3, classifier_part, recipe, tmp_path / "three")):
        assert part["exposure"] == alone["exposure"], number
        assert part["metrics"] == pytest.approx(alone["metrics"], abs=0.03)
    one, three = (
        [line["loss"] for line in lines_of(tmp_path / name) if line["kind"] == "train"]
        for name in ("one", "three")
    )
    assert one == pytest.approx(three, rel=1e-4)
    files = [
        np.load(tmp_path / name / "evaluations" / "images_000000032" / "predictions.npz")
        for name in ("one", "three")
    ]
    assert files[0]["image_ids"].tolist() == files[1]["image_ids"].tolist()
