"""A new user at the command line, on a small drawn world: exit codes, one line a mistake, pictures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch

from command_line import groundup
from groundup.data.world import WorldOptions, write_world
from groundup.detector import load_detector, with_tta

WORLD = WorldOptions(forms=("star", "gear"), textures=("dots",), min_side=64, max_side=64, max_objects=3,
                     min_size=0.3, max_distractors=0, crowd_ratio=0.0)  # fmt: skip


PROCESS = [sys.executable, "-m", "groundup.cli.main"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 24, 6, 0, WORLD)
    return folder


def data_of(world: Path) -> list[str]:
    return [
        f"data.{split}.{what}={path}"
        for split in ("train", "val")
        for what, path in (
            ("annotations", world / "annotations" / f"instances_{split}.json"),
            ("images", world / split),
        )
    ]


TINY = [
    "transforms.short_side=[64]",
    "transforms.test_short_side=64",
    "loader.num_workers=0",
    "training.schedule.units=null",
    "training.schedule.unit_images=32",
    "training.schedule.batch_size=4",
    "training.schedule.lr=0.001",
    "training.upkeep.log_every=4",
    "training.upkeep.tensorboard=false",
]


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    """A short run; too short to find anything."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    done = groundup(
        "train", "tiny_mask_rcnn", *data_of(world), *TINY, "training.schedule.images=32", "--out", folder
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images_seen"] == 32
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU captures steps")
def test_steps_that_cannot_be_captured_are_refused_in_one_line_before_there_is_a_run(world, tmp_path):
    fixed = ["model.roi_slots=fixed", "transforms.buckets={sizes: [[128, 128]]}", "transforms.max_side=128"]
    words = [*data_of(world), *TINY, *fixed, "training.schedule.images=32", "training.capture=true"]
    done = groundup("train", "tiny_mask_rcnn", *words, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "groundup: training.capture is true, but steps run on cpu: only an NVIDIA GPU repeats captured "
        "steps; write training.capture=false"
    ]
    assert not (tmp_path / "run").exists()


def test_help_answers_on_every_level():
    for words in (
        [],
        ["train"],
        ["evaluate"],
        ["predict"],
        ["config"],
        ["data"],
        ["data", "check"],
        ["data", "convert"],
    ):
        assert groundup(*words, "--help").returncode == 0, words


def test_help_does_not_import_torch():
    code = (
        "import sys; import groundup.cli.main; assert not {'torch', 'pydantic', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["train", "tiny_mask_rcnn"], 2, "data.train.annotations"),
        (["train", "tiny_mask_rcn"], 2, "did you mean"),
        (["train", "tiny_mask_rcnn", "training.schedule.unit=2"], 2, "did you mean"),
        (["train", "tiny_mask_rcnn", "data.train.annotations=absent.json"], 3, "absent.json"),
        (["config", "tiny_mask_rcnn", "start.frozen_stages=1"], 2, "random weights must not be frozen"),
        (["predict", "absent", "a.jpg"], 5, "not a run"),
        (["evaluate"], 2, "--results"),
        (["data", "check"], 2, "annotations"),
        (["nonsense"], 2, "nonsense"),
        (
            ["evaluate", "--results", "a.json", "--annotations", "b.json", "--max-detections", "0"],
            2,
            "max_det",
        ),
        (["evaluate", "run", "--images", "photos"], 2, "--annotations"),
        (["evaluate", "--results", "a.json", "--annotations", "b.json", "--pictures", "2"], 2, "--pictures"),
        (["evaluate", "--results", "a.json", "--annotations", "b.json", "--tta", "flip"], 2, "--tta"),
    ],
)
def test_a_mistake_is_one_line_and_its_status(words, status, message, tmp_path):
    done = groundup(*words, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_ends_alike(tmp_path):
    words = ["predict", "absent", "a.jpg"]
    alone = subprocess.run([*PROCESS, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    here = groundup(*words, cwd=tmp_path)
    assert (alone.returncode, alone.stdout, alone.stderr) == (here.returncode, here.stdout, here.stderr)


def test_the_data_commands_describe_a_world(world, tmp_path):
    annotations, images = world / "annotations" / "instances_train.json", world / "train"
    assert groundup("data", "check", annotations, "--images", images).returncode == 0
    page = tmp_path / "page.png"
    stats = groundup("data", "stats", annotations, "--images", images, "--page", page, "--json")
    assert json.loads(stats.stdout)["num_images"] == 24
    assert cv2.imread(str(page)) is not None
    assert groundup("data", "index", annotations, "--images", images).returncode == 0
    third, tenth = tmp_path / "third.json", tmp_path / "tenth.json"
    for path, fraction in ((third, 1 / 3), (tenth, 0.1)):
        done = groundup(
            "data", "subset", annotations, "--images", images, "--fraction", fraction, "--out", path
        )
        assert done.returncode == 0, done.stderr
    names = [{image["id"] for image in json.loads(path.read_text())["images"]} for path in (tenth, third)]
    assert names[0] < names[1]


def test_a_preview_shows_what_a_recipe_learns_from(world, tmp_path):
    page = tmp_path / "preview.png"
    done = groundup("data", "preview", "tiny_mask_rcnn", *data_of(world), "transforms.copy_paste={}",
                    "--page", page, "--pictures", 4)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(page)) is not None


def test_a_broken_data_set_leaves_with_status_3(world, tmp_path):
    document = json.loads((world / "annotations" / "instances_train.json").read_text())
    document["annotations"][1]["id"] = document["annotations"][0]["id"]
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    assert groundup("data", "check", path, "--images", world / "train").returncode == 3
    data = [f"data.train.annotations={path}" if "train.annotations" in one else one for one in data_of(world)]
    done = groundup(
        "train", "tiny_mask_rcnn", *data, *TINY, "training.schedule.images=32", "--out", tmp_path / "run"
    )
    assert (done.returncode, done.stderr.strip().count("\n")) == (3, 0)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_evaluated_and_used(run, world, tmp_path):
    again = groundup("evaluate", run, "--json", "--pictures", 2)
    assert again.returncode == 0, again.stderr
    stored = json.loads((run / "result.json").read_text())["metrics"]
    assert json.loads(again.stdout)["metrics"] == stored
    assert cv2.imread(str(run / "evaluations" / "newest" / "pictures.png")) is not None
    foreign = groundup(
        "evaluate", "--results", run / "evaluations" / "newest" / "predictions.bbox.json",
        "--annotations", world / "annotations" / "instances_val.json", "--images", world / "val", "--json",
    )  # fmt: skip
    assert foreign.returncode == 0, foreign.stderr
    photograph = next((world / "val").iterdir())
    found = groundup("predict", run, photograph, "--out", tmp_path / "out", "--threshold", 0, "--json")
    assert found.returncode == 0, found.stderr
    record = json.loads(found.stdout)[0]
    assert record == json.loads((tmp_path / "out" / "predictions.json").read_text())[0]
    assert cv2.imread(record["overlay"]) is not None
    assert {"bbox", "score", "category", "category_id", "segmentation"} <= set(record["detections"][0])


def test_a_run_looks_at_photographs_in_several_ways(run, world, tmp_path):
    done = groundup("evaluate", run, "--tta", "{scales: [48, 96], vote_iou: 0.9}", "--json")
    assert done.returncode == 0, done.stderr
    assert {"box/AP", "mask/AP"} <= set(json.loads(done.stdout)["metrics"])
    (folder,) = (run / "evaluations").glob("newest_tta_*")
    assert (folder / "predictions.segm.json").exists()
    photograph = next((world / "val").iterdir())
    detector = load_detector(run)
    (plain,) = detector.predict([photograph])
    (once,) = with_tta(detector, "{flip: false}").predict([photograph])
    (several,) = with_tta(detector, "flip").predict([photograph])
    assert torch.allclose(plain.boxes, once.boxes, atol=1e-3)
    assert torch.allclose(plain.scores, once.scores, atol=1e-6)
    assert not torch.equal(plain.scores, several.scores)


def test_a_run_is_used_from_anywhere_and_judged_where_a_category_is_missing(world, tmp_path):
    """Relative paths given to `train`; a val split without the first category; files that are no pictures."""
    folder = tmp_path / "sp ace #1 \u65e5"
    shutil.copytree(world, folder / "world")
    val = folder / "world" / "annotations" / "instances_val.json"
    document = json.loads(val.read_text())
    document["categories"] = document["categories"][1:]
    known = {category["id"] for category in document["categories"]}
    document["annotations"] = [one for one in document["annotations"] if one["category_id"] in known]
    val.write_text(json.dumps(document))
    words = ["tiny_mask_rcnn", *data_of(Path("world")), *TINY, "training.schedule.images=32", "--out", "run"]
    done = groundup("train", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    again = groundup("evaluate", folder / "run", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["metrics"] == json.loads(done.stdout)["metrics"]
    assert {one["category_id"] for one in json.loads(predictions(folder).read_text())} - known
    photographs = folder / "photographs"
    photographs.mkdir()
    shutil.copy(next((world / "val").iterdir()), photographs / "b\x1b.jpg")
    for name in ("a.jpg", "c.png"):
        (photographs / name).write_text("no picture")
    found = groundup("predict", folder / "run", photographs, "--out", tmp_path / "out", cwd=tmp_path)
    # On a slow machine a line of progress may stand before it.
    assert found.returncode == 3
    assert sum(line.startswith("groundup: ") for line in found.stderr.splitlines()) == 1
    assert "Traceback" not in found.stderr
    assert all(part in found.stderr for part in ("2 of 3", "a.jpg", "c.png"))
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [record["file"] for record in records] == [str(photographs / "b\x1b.jpg")]
    other = groundup(
        "evaluate", folder / "run", "--annotations", renamed(val), "--images", folder / "world" / "val"
    )
    assert (other.returncode, other.stderr.strip().count("\n")) == (3, 0)
    assert "does not know" in other.stderr
    assert "\\x1b" in other.stderr
    assert "\x1b" not in other.stderr


def predictions(folder: Path) -> Path:
    return folder / "run" / "evaluations" / "newest" / "predictions.bbox.json"


def renamed(path: Path) -> Path:
    """The annotations with a name that would steer a terminal."""
    document = json.loads(path.read_text())
    document["categories"][0]["name"] = "\x1b[31mred"
    result = path.with_name("renamed.json")
    result.write_text(json.dumps(document))
    return result


def test_a_folder_with_files_that_a_run_would_write_over_is_refused(world, tmp_path):
    words = ["tiny_mask_rcnn", *data_of(world), *TINY, "training.schedule.images=32", "--out", tmp_path]
    for name in ("recipe.json", "record.json"):
        (tmp_path / name).write_text("[]")
        done = groundup("train", *words)
        assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
        assert name in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_a_dry_run_writes_nothing_and_says_what_would_be(world, tmp_path):
    done = groundup("train", "tiny_mask_rcnn", *data_of(world), *TINY, "training.schedule.images=32",
                    "--out", tmp_path / "run", "--dry-run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "32 images in 8 steps of 4" in done.stdout
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_goes_on_with_the_same_command_to_the_same_bits(run, world, tmp_path):
    folder = tmp_path / "stopped"
    words = [
        "train",
        "tiny_mask_rcnn",
        *data_of(world),
        *TINY,
        "training.schedule.images=32",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen([*PROCESS, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    log = folder / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and b'"train"' in log.read_bytes()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) in {75, 0}
    other = groundup(*words[:-2], "seed=1", "--out", folder)
    assert other.returncode == 2, other.stderr
    assert "seed" in other.stderr
    done = groundup(*words)
    assert done.returncode == 0, done.stderr
    weights = "checkpoints/images_000000032/model.safetensors"
    assert (folder / weights).read_bytes() == (run / weights).read_bytes()
