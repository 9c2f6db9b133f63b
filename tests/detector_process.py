"""What a process of a detector's run does, in a module that a fresh process can import."""

from groundup.detector import evaluate_run
from groundup.recipes import resolve_recipe
from groundup.run import train_run


def train_part(words, folder):
    """A run in this process's world."""
    name, *changes = words
    result = train_run(resolve_recipe(name, changes), folder, quiet=True)
    result["exposure"].pop("seconds")
    return result


def evaluate_part(folder, out):
    """A finished run evaluated in this process's world."""
    return evaluate_run(folder, out=out).metrics
