"""Pascal VOC folders as COCO json.

    root/JPEGImages/2007_000027.jpg
    root/Annotations/2007_000027.xml
    root/ImageSets/Main/train.txt        one name without ending a line

A name joins list, xml and photograph. Source: VOC2012 development kit, section 5 "Using the development
kit" and `VOCreadxml.m`; annotation guidelines for what difficult, truncated and occluded mean.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from groundup.config import Options, one_line
from groundup.data.formats import Conversion, Draft, finite_number, image_size
from groundup.data.images import SUFFIXES, Size
from groundup.errors import DataError
from groundup.records import digest_of

ANNOTATIONS = "Annotations"
IMAGES = "JPEGImages"
LISTS = Path("ImageSets", "Main")

MAX_XML_BYTES = 64 << 20
"""Largest xml read: 64 MiB hold some 200,000 objects."""
FEED_BYTES = 1 << 16
"""Bytes the parser is given at once."""
CLASS_LIST_LINE = re.compile(r".*\s(-1|0|1)")
"""A line of a class's list: name and whether the class is in the photograph. Source: VOC2012 kit, 5.2.1."""
FLAGS = ("difficult", "truncated", "occluded")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocOptions(Options):
    """How the xml is read."""

    voc_offset: Literal[0, 1] = 1
    """Number of the first pixel. 1, as VOC defines it: corners are the first and last pixel of the object,
    counted from 1, so x = xmin - 1 and width = xmax - xmin + 1. 0, as most tools outside VOC write it:
    corners lie on edges, so x = xmin and width = xmax - xmin."""
    difficult: Literal["ignore", "keep"] = "ignore"
    """Objects marked difficult: `ignore` makes them crowds (iscrowd=1), the one mark by which COCO's
    evaluation neither asks for an object nor counts its detection as wrong, as VOC's evaluation does; they
    are not learnt from unless data.difficult says so. `keep` makes them objects like any other. The field
    stays either way, and VOC's own AP reads it."""
    classes: tuple[str, ...] | None = None
    """Names in the order of the category ids 1, 2, ...; None takes all names in the folder's annotations,
    sorted, so that every split gets the same ids."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One annotation file, parsed."""

    path: Path
    root: ElementTree.Element

    def text(self, place: str) -> str:
        """The text at the place below the root, without surrounding space; empty where there is none."""
        return text_of(self.root, place)


@dataclass(frozen=True, slots=True)
class Part:
    """One folder's list: a year of VOC, say."""

    root: Path
    """Folder that holds `Annotations` and `JPEGImages`."""
    split: str | None
    """Name of a list in `ImageSets/Main`; None takes every annotation, by name."""


def convert_voc(root: Path, split: str | None, options: VocOptions) -> Conversion:
    """One folder's boxes as a COCO document; see `convert_parts`."""
    return convert_parts([Part(root, split)], options)


def convert_parts(parts: Sequence[Part], options: VocOptions) -> Conversion:
    """The boxes of one folder or several as one COCO document, with every problem on the way.

    Image ids count through all parts in their order, so that no two years share one. File names are relative
    to the part's `JPEGImages`, or to the folder that the `JPEGImages` of several parts have in common.

    Raises:
        DataError: a folder or list is missing, or a split is empty.
    """
    draft = Draft()
    trees = [read_part(draft, part) for part in parts]
    if options.classes is not None:
        draft.names = list(options.classes)
    else:
        names = [all_names(part.root, found) for part, found in zip(parts, trees, strict=True)]
        draft.names = sorted({name for one in names for name in one})
    folders = [part.root / IMAGES for part in parts]
    images = folders[0]
    if len(set(folders)) > 1:
        images = Path(os.path.commonpath([folder.absolute() for folder in folders]))
    seen: dict[str, list[Path]] = {}
    for part, found in zip(parts, trees, strict=True):
        photographs = photographs_of(part.root)
        for stem, tree in found.items():
            candidates = photographs.get(stem, [])
            if not is_converted(draft, seen, tree, candidates):
                add_photograph(draft, part.root, images, tree, candidates, options)
    described = parts[0].split or "all annotations"
    if len(parts) > 1:
        described = " + ".join(f"{part.root.name} {part.split or 'all annotations'}" for part in parts)
    description = f"Pascal VOC, {described}; voc_offset={options.voc_offset}"
    return draft.finish(images, f"{description}, difficult={options.difficult}")


def read_part(draft: Draft, part: Part) -> dict[str, Tree]:
    """The annotations of one part that can be parsed, by name.

    Raises:
        DataError: a folder or the list is missing, or the split is empty.
    """
    for folder in (part.root / ANNOTATIONS, part.root / IMAGES):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; a Pascal VOC data set has {ANNOTATIONS} and {IMAGES}")
    stems = read_list(draft, part.root, part.split) if part.split is not None else all_stems(part.root)
    if not stems:
        where = f"the list {part.split}" if part.split else ANNOTATIONS
        raise DataError(f"{part.root}: no annotations in {where}")
    return read_trees(draft, part.root, stems)


def is_converted(draft: Draft, seen: dict[str, list[Path]], tree: Tree, candidates: list[str]) -> bool:
    """Whether an earlier part has the annotation, or the same photograph under its name, which is noted.

    Years of VOC from 2008 on contain those before them; other sets may number their photographs alike.
    """
    known = seen.setdefault(tree.path.stem, [])
    if tree.path in known:
        draft.note("list-twice", tree.path)
        return True
    for path in (tree.path.parents[1] / IMAGES / name for name in candidates):
        for other in (one.parents[1] / IMAGES / path.name for one in known):
            if other.is_file() and digest_of(path) == digest_of(other):
                draft.note("image-in-two-parts", path, "", f"the bytes of {other}")
                return True
    known.append(tree.path)
    return False


def all_stems(root: Path) -> list[str]:
    """Names of all annotations, sorted."""
    return sorted(path.stem for path in (root / ANNOTATIONS).glob("*.xml") if not path.name.startswith("."))


def read_list(draft: Draft, root: Path, split: str) -> list[str]:
    """Names in the split's list, in its order, each once.

    Raises:
        DataError: no such list; the message names those there are.
    """
    path = root / LISTS / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(other.stem for other in (root / LISTS).glob("*.txt"))) or "none"
        raise DataError(f"{path}: cannot be read: {one_line(error)}; lists there: {known}") from None
    stems: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        stem = line.strip()
        if not stem:
            continue
        named = Path(stem).name == stem and (root / ANNOTATIONS / f"{stem}.xml").is_file()
        if not named and (CLASS_LIST_LINE.fullmatch(stem) or Path(stem).name != stem):
            draft.note("list-line", path, f"line {number}", stem)
        elif stem in stems:
            draft.note("list-twice", path, f"line {number}", stem)
        else:
            stems[stem] = None
    return list(stems)


def read_trees(draft: Draft, root: Path, stems: list[str]) -> dict[str, Tree]:
    """The annotations that can be parsed, by name."""
    trees: dict[str, Tree] = {}
    for stem in stems:
        path = root / ANNOTATIONS / f"{stem}.xml"
        if not path.is_file():
            draft.note("xml-missing", path)
            continue
        try:
            trees[stem] = Tree(path, read_xml(path))
        except DataError as error:
            draft.note("xml-damaged", path, "", str(error).removeprefix(f"{path}: "))
    return trees


class RefusingBuilder(ElementTree.TreeBuilder):
    """Builds the tree of a document that declares nothing."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:  # noqa: ARG002
        """Refuse the declaration; entities that grow without end or read other files begin there."""
        raise DataError("declares a document type or entities, which an annotation has no use for")


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an xml file without document type and entities, which is `annotation`.

    Raises:
        DataError: unreadable, too large, no xml, or one that declares a document type.
    """
    parser = ElementTree.XMLParser(target=RefusingBuilder())  # noqa: S314 - the builder refuses entities
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise DataError(
                f"{path}: more than {MAX_XML_BYTES} bytes; an annotation describes one photograph"
            )
        with path.open("rb") as file:
            while chunk := file.read(FEED_BYTES):
                parser.feed(chunk)
        root: ElementTree.Element = parser.close()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise DataError(f"{path}: no xml: {one_line(error)}") from None
    except DataError as error:
        raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    if root.tag != "annotation":
        raise DataError(f"{path}: the outermost element is '{root.tag}', not 'annotation'")
    return root


def text_of(element: ElementTree.Element, place: str) -> str:
    """The text at the place, without surrounding space; empty where there is none."""
    return (element.findtext(place) or "").strip()


def all_names(root: Path, trees: dict[str, Tree]) -> list[str]:
    """Class names in all of the folder's annotations, those outside the split included, sorted."""
    names: set[str] = set()
    for stem in all_stems(root):
        tree = trees.get(stem)
        try:
            element = tree.root if tree is not None else read_xml(root / ANNOTATIONS / f"{stem}.xml")
        except DataError:  # listed where it belongs to the split
            continue
        names.update(text_of(thing, "name") for thing in element.findall("object"))
    return sorted(names - {""})


def photographs_of(root: Path) -> dict[str, list[str]]:
    """File names in the photographs' folder by their name without ending, sorted."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / IMAGES).iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path.name)
    return found


def add_photograph(
    draft: Draft, root: Path, images: Path, tree: Tree, candidates: list[str], options: VocOptions
) -> None:
    """Append the photograph and its objects, or say why not; names are relative to the folder `images`."""
    file_name = file_name_of(draft, root, tree, candidates)
    if file_name is None:
        return
    size = image_size(draft, root / IMAGES / file_name, stated_size(draft, tree))
    if size is None:
        return
    folder = root / IMAGES
    prefix = Path() if folder == images else folder.absolute().relative_to(images)
    draft.add_image((prefix / file_name).as_posix(), size)
    if tree.text("segmented") == "1":
        draft.note("masks-left-out", tree.path, "segmented", 1)
    for number, thing in enumerate(tree.root.findall("object")):
        add_object(draft, tree.path, f"object[{number}]", thing, options)


def file_name_of(draft: Draft, root: Path, tree: Tree, candidates: list[str]) -> str | None:
    """The photograph's file name: the annotation's own name, else what its `filename` says."""
    written = tree.text("filename")
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        if written in candidates:
            return written
        draft.note("image-unclear", tree.path, "filename", ", ".join(candidates))
        return None
    if written and Path(written).name == written and (root / IMAGES / written).is_file():
        draft.note("image-other-name", tree.path, "filename", written)
        return written
    draft.note("image-missing", root / IMAGES / f"{tree.path.stem}.jpg")
    return None


def stated_size(draft: Draft, tree: Tree) -> Size | None:
    """(height, width) that the annotation states; None, and noted, where it states none."""
    numbers = [finite_number(tree.text(f"size/{side}")) for side in ("height", "width")]
    if any(number is None or number < 1 or number % 1 for number in numbers):
        draft.note(
            "image-size-missing", tree.path, "size", f"{tree.text('size/width')} x {tree.text('size/height')}"
        )
        return None
    height, width = (int(number) for number in numbers if number is not None)
    return height, width


def add_object(draft: Draft, path: Path, where: str, thing: ElementTree.Element, options: VocOptions) -> None:
    """Append one object, or say why not. Parts of persons (`part`) are no objects of their own."""
    name = text_of(thing, "name")
    if not name:
        draft.note("object-name", path, f"{where}.name")
        return
    if name not in draft.names:
        draft.note("class-unknown", path, f"{where}.name", name)
        return
    flags: dict[str, Any] = {}
    for flag in FLAGS:
        text = text_of(thing, flag)
        if text not in ("", "0", "1"):
            draft.note("flag-invalid", path, f"{where}.{flag}", text)
            return
        if text:
            flags[flag] = int(text)
    box = read_box(draft, path, where, thing, options.voc_offset)
    if box is None:
        return
    if flags.get("difficult") and options.difficult == "ignore":
        flags["iscrowd"] = 1
    draft.add_annotation(draft.names.index(name) + 1, box, box[2] * box[3], **flags)


def read_box(
    draft: Draft, path: Path, where: str, thing: ElementTree.Element, voc_offset: int
) -> list[float] | None:
    """x, y, width, height of the object in pixels from 0; None, and noted, where there is no such box."""
    where = f"{where}.bndbox"
    element = thing.find("bndbox")
    if element is None:
        draft.note("box-missing", path, where)
        return None
    texts = [text_of(element, corner) for corner in CORNERS]
    corners = [number for text in texts if (number := finite_number(text)) is not None]
    if len(corners) != len(CORNERS):
        draft.note("box-type", path, where, " ".join(texts))
        return None
    x1, y1, x2, y2 = corners
    if min(x1, y1) < voc_offset:
        draft.note("box-from-zero", path, where, " ".join(texts))
    box = [x1 - voc_offset, y1 - voc_offset, x2 - x1 + voc_offset, y2 - y1 + voc_offset]
    if min(box[2:]) <= 0:
        draft.note("box-no-area", path, where, " ".join(texts))
        return None
    return box
