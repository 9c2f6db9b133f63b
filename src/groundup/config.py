"""Trees of options: read, override, compare, name by fingerprint.

A tree is a frozen pydantic model made of plain data and other trees, so it always saves as text
and reads back equal. A *leaf* is a value of the tree under its dotted path
(`model.rpn.nms_threshold`).
"""

import difflib
import hashlib
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from groundup.errors import UsageError

FINGERPRINT_LENGTH = 12
"""Hexadecimal digits in a fingerprint: 48 bits, so a million runs collide with odds of 2e-3."""


class Options(BaseModel):
    """Base of every part's options: frozen, no unknown fields, documented field by field."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


DOC_WIDTH = 100
"""Columns of the comments in a printed recipe."""

Tree = TypeVar("Tree", bound=Options)


def leaves(tree: Options | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted path of the tree with its value, in the order of declaration."""
    items = (
        tree.items()
        if isinstance(tree, Mapping)
        else ((n, getattr(tree, n)) for n in type(tree).model_fields)
    )
    for name, value in items:
        if isinstance(value, Options | Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(trees: Sequence[Options | Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The leaves in which the trees are not all alike, with the value in each tree.

    A leaf that a tree lacks counts as None there.
    """
    tables = [dict(leaves(tree)) for tree in trees]
    names = dict.fromkeys(name for table in tables for name in table)
    columns = {name: tuple(table.get(name) for table in tables) for name in names}
    return {name: values for name, values in columns.items() if any(v != values[0] for v in values)}


def plain(tree: Options) -> dict[str, Any]:
    """The tree as nested dictionaries of JSON values."""
    return tree.model_dump(mode="json")


def fingerprint(tree: Options | Mapping[str, Any]) -> str:
    """Name of the tree's contents: equal trees and only equal trees share it."""
    values = plain(tree) if isinstance(tree, Options) else tree
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]


def override(tree: Tree, assignments: Sequence[str]) -> Tree:
    """The tree with `dotted.path=value` assignments applied together; values are YAML without comments.

    Raises:
        UsageError: an unknown path (with the nearest known one), a value of the wrong type, or a
            combination the tree refuses.
    """
    return vary(tree, read_assignments(assignments))


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Values by dotted path of `dotted.path=value` assignments.

    Raises:
        UsageError: no assignment, or a value that is not YAML.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"'{assignment}' is not an assignment; write key=value, for example seed=3")
        try:
            # YAML would cut a path off at " #"; a number sign may also be inside a list or quotes.
            changes[path] = text if " #" in text and text[0] not in "[{'\"" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{path}: the value {text!r} is not YAML: {one_line(error)}") from None
    return changes


def vary(tree: Tree, changes: Mapping[str, Any]) -> Tree:
    """The tree with the values at dotted paths replaced, all together, and checked once.

    Raises:
        UsageError: as `override`.
    """
    values = plain(tree)
    known = [name for name, _ in leaves(values)]
    for path, value in changes.items():
        set_path(values, path, value, known)
    return read_tree(type(tree), values)


def set_path(values: dict[str, Any], path: str, value: Any, known: Sequence[str]) -> None:
    """Put the value at the dotted path of nested dictionaries, where the path must exist."""
    *parents, last = path.split(".")
    node: Any = values
    for name in parents:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise UsageError(f"no option '{path}'{did_you_mean(path, known)}")
    node[last] = value


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    tails = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    choice = tails[0] if len(tails) == 1 else (near[0] if near else None)
    return f"; did you mean '{choice}'?" if choice else ""


def read_tree(kind: type[Tree], values: Mapping[str, Any]) -> Tree:
    """The checked tree that nested dictionaries describe.

    Raises:
        UsageError: one line naming each wrong field, what was found, and a near name if one fits.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError("; ".join(explain(kind, problem) for problem in error.errors())) from None


def explain(kind: type[Options], problem: Mapping[str, Any]) -> str:
    """One pydantic problem as a sentence: where, what was found, what to do."""
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"no option '{path}'{did_you_mean(path, field_names(kind))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path else message
    found = problem.get("input")
    shown = "" if isinstance(found, dict) or problem["type"] == "missing" else f", got {found!r}"
    return f"{path}: {message}{shown}"


def field_names(kind: type[Options], prefix: str = "") -> list[str]:
    """Every dotted path a tree of this kind can have, sections included."""
    names = []
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Options):
            names += field_names(annotation, f"{prefix}{name}.")
    return names


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping a YAML file holds; tags that would run code are refused.

    Raises:
        UsageError: missing file, not YAML, not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not plain YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a recipe is a mapping of options, found {type(values).__name__}")
    return values


def one_line(error: object) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())


def documented_lines(tree: Options, indent: str = "") -> Iterator[str]:
    """The tree as YAML lines, the doc of each field above it as a comment."""
    for name, field in type(tree).model_fields.items():
        value = getattr(tree, name)
        summary = " ".join((field.description or "").split())
        if summary:
            yield from (f"{indent}# {line}" for line in textwrap.wrap(summary, DOC_WIDTH))
        if isinstance(value, Options):
            yield f"{indent}{name}:"
            yield from documented_lines(value, indent + "  ")
        else:
            text = yaml.safe_dump(plain(tree)[name], default_flow_style=True, width=10**9, allow_unicode=True)
            yield f"{indent}{name}: {text.strip().removesuffix('...').strip()}"
