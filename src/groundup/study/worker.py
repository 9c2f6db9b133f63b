"""Carries out one run of a study; and a process that is ready to do so at once, again and again.

Importing torch takes seconds, so one process imports everything and then forks a process for each run
(`python -m groundup.study.worker`). It takes one JSON object a line on stdin, `{"start": ...}` or
`{"stop": SIGNAL}`, and says on stdout when a run's process began and ended. When its stdin closes, because
whoever started it ended or was killed, it asks the trainings to stop, which write checkpoints, and leaves.
"""

import ctypes
import importlib
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from groundup.allocator import keep_freed_memory
from groundup.errors import EXIT_INTERNAL, CheckpointError, GroundupError
from groundup.records import read_json
from groundup.study.keys import made_here
from groundup.study.plan import PretrainingPlan, RunPlan, read_plan
from groundup.study.results import RECIPE, RECORD, RESULT
from groundup.study.search_results import is_trial, trial_path
from groundup.study.study import PRETRAINING, RUNS

START_REPORT = "start.json"
"""What the start loaded, in a run's folder; a test holds the name equal to `run_folder.LOAD_REPORT`."""
POLL_SECONDS = 0.1
"""How often ended trainings are looked for."""
PRELOADED = (
    "timm",
    "torchvision.ops",
    "hotcoco",
    "torch._dynamo",  # the optimizer imports it when first made, which takes seconds
    "torch.utils.flop_counter",
    "torch.utils.tensorboard",
    "groundup.run",
    "groundup.recipes",
    "groundup.classification",
)
"""Modules whose import takes long; none of them may start a thread or touch a GPU."""
PR_SET_PDEATHSIG = 1
"""Asks Linux for a signal when the parent ends. Source: linux/prctl.h."""


def run_path(folder: Path, key: str) -> Path:
    """The folder of a run, of a pre-training (`pretraining:NAME`) or of a trial (`search:ARM/NAME`)."""
    if is_trial(key):
        return trial_path(folder, key)
    made = made_here(key)
    return folder / RUNS / key if made is None else folder / PRETRAINING / made


def carry_out(folder: Path, key: str, *, quiet: bool = True) -> dict[str, Any]:
    """Carry out a planned run, or go on with it; a branch takes its trunk over from its parent first.

    Returns:
        The content of its `result.json`.

    Raises:
        GroundupError: as `run.train_run`; a parent that has not come to the branch point yet.
    """
    from groundup.config import read_tree
    from groundup.recipe import Recipe
    from groundup.run import train_run

    plan = read_plan(folder)
    made = made_here(key)
    if made is not None:
        return pretrain(
            next(one for one in plan.pretraining if one.name == made), run_path(folder, key), quiet
        )
    run = plan.run(key)
    recipe = read_tree(Recipe, with_own_weights(run.recipe, folder))
    if run.parent is not None:
        take_over_trunk(folder, run, recipe)
    return train_run(recipe, run_path(folder, key), quiet=quiet)


def pretrain(plan: PretrainingPlan, folder: Path, quiet: bool) -> dict[str, Any]:
    """Carry out a pre-training.

    Raises:
        GroundupError: as `classification.train_classifier_run`.
    """
    from groundup.classification import ClassifierRecipe, train_classifier_run
    from groundup.config import read_tree

    return train_classifier_run(read_tree(ClassifierRecipe, plan.recipe), folder, quiet=quiet)


def with_own_weights(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The plain recipe with a start from the study's own pre-training as that run's folder."""
    made = made_here(recipe["start"]["weights"])
    if made is None:
        return recipe
    weights = str((folder / PRETRAINING / made).absolute())
    return {**recipe, "start": {**recipe["start"], "weights": weights}}


def take_over_trunk(folder: Path, run: RunPlan, recipe: Any) -> None:
    """Seed the run from its parent. If the parent has ended without the branch point, the run begins anew.

    Raises:
        CheckpointError: the parent has not come that far.
    """
    from groundup.config import fingerprint, plain
    from groundup.engine.branch import has_branch_point, is_seeded, seed_run
    from groundup.run_folder import environment

    assert run.parent is not None, "asked of branches only"
    parent, target = folder / RUNS / run.parent, folder / RUNS / run.key
    if is_seeded(target):
        return
    if not has_branch_point(parent, run.branch_images):
        if (parent / RESULT).exists():
            print(
                f"{parent}: has no checkpoint at {run.branch_images}; trained from the start", file=sys.stderr
            )
            return
        raise CheckpointError(f"{parent}: has not come to {run.branch_images} images yet; carry it out first")
    record = read_json(parent / RECORD)
    identity = record["identity"]
    training = {**identity["training"], "schedule": plain(recipe.training.schedule)}
    identity = {**identity, "training": training}
    documents = {
        RECORD: record
        | {
            "identity": identity,
            "fingerprint": fingerprint(identity),
            "command": sys.argv,
            "environment": environment(),
        },
        RECIPE: plain(recipe),
        START_REPORT: read_json(parent / START_REPORT),
    }
    seed_run(parent, target, run.branch_images, recipe=fingerprint(identity), documents=documents)


def preload() -> None:
    """Import what every training needs, so that a fork has it. What is imported late elsewhere is meant."""
    for name in PRELOADED:
        importlib.import_module(name)


def end_with_parent() -> None:
    """Let Linux ask this process to stop when the one that started it ends; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def become(job: dict[str, Any]) -> NoReturn:
    """Be the process of one run, in a fork: its own stderr, threads and GPU; exits as a command would."""
    status = EXIT_INTERNAL
    try:
        end_with_parent()
        path = Path(job["stderr"])
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((null, 0), (handle, 1), (handle, 2)):
            os.dup2(number, target)
        os.environ.update(job["environment"])
        import torch

        torch.set_num_threads(job["threads"])
        sys.argv = ["groundup", "study", "work", job["folder"], job["key"]]
        carry_out(Path(job["folder"]), job["key"])
        status = 0
    except GroundupError as error:
        print(f"groundup: {error}", file=sys.stderr)
        status = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def serve() -> None:
    """Fork a process for every run that is asked for, until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this passes on what it means to
    preload()
    say({"ready": True})
    running: dict[int, str] = {}
    rest = b""
    is_open = True
    while is_open or running:
        readable = select.select([0] if is_open else [], [], [], POLL_SECONDS)[0]
        if readable:
            chunk = os.read(0, 1 << 16)
            rest += chunk
            if not chunk:
                is_open = False
                send(running, signal.SIGTERM)
            *lines, rest = rest.split(b"\n")
            for line in lines:
                obey(json.loads(line), running)
        reap(running)


def obey(command: dict[str, Any], running: dict[int, str]) -> None:
    """Start a run's process, or pass a signal on to all."""
    if "stop" in command:
        send(running, int(command["stop"]))
        return
    job = command["start"]
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        become(job)
    running[pid] = job["key"]
    say({"began": job["key"], "pid": pid})


def send(running: dict[int, str], number: int) -> None:
    """Send a signal to every training."""
    for pid in running:
        os.kill(pid, number)


def reap(running: dict[int, str]) -> None:
    """Say which trainings have ended, and how: an exit status, or minus the signal that killed it."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            say({"ended": running.pop(pid), "exit_code": os.waitstatus_to_exitcode(status)})


def say(message: dict[str, Any]) -> None:
    """Tell whoever started this; that it is gone is noticed elsewhere."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return


if __name__ == "__main__":
    keep_freed_memory()
    serve()
