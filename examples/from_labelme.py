"""Turn photos with labelme's polygons into a labelled set: images/, labels/*.png and names.txt.

python examples/from_labelme.py PHOTOS OUT [--partial]

Each photo has its JSON beside it, as labelme saves it. The set is what `ovsdino pseudo-masks --source labels`
learns from and what `ovsdino evaluate` and `ovsdino train --validate` take.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ovsdino_runtime.base.photo import load_photo

UNLABELLED = 255
MAX_CLASSES = 254


def main() -> None:
    """Read the command line and write the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of photos and labelme's JSON files")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="choose it where not every object was outlined: the rest is unlabelled, not background",
    )
    given = parser.parse_args()
    try:
        print(write_set(given.photos, given.out, partial=given.partial))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{given.photos}: {error!r}" if isinstance(error, KeyError) else str(error))


def write_set(photos: Path, out: Path, *, partial: bool) -> str:
    """Write a labelled set; say what is in it.

    Raises:
        ValueError: a file is not labelme's, its photo is missing, or two photos have the same name.
        OSError: a file cannot be read, or the folder exists.
    """
    files = sorted(photos.glob("*.json"))
    if not files:
        raise ValueError(f"{photos}: no JSON files of labelme in it")
    outlines = {file: read_outlines(file) for file in files}
    sources = {file: find_photo(file) for file in files}
    if len({source.stem for source in sources.values()}) < len(files):
        raise ValueError(f"{photos}: two JSON files name photos of the same name; rename one of them")
    labels = sorted({label for shapes in outlines.values() for label, _ in shapes})
    if not 0 < len(labels) <= MAX_CLASSES:
        raise ValueError(f"{photos}: {len(labels)} classes; expected 1..{MAX_CLASSES}")
    names = labels if partial else ["background", *labels]
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True)
    for file, shapes in outlines.items():
        source = sources[file]
        height, width = load_photo(source).shape[:2]  # turned as its EXIF says, as labelme shows it
        mask = Image.new("L", (width, height), UNLABELLED if partial else 0)
        for label, points in shapes:
            ImageDraw.Draw(mask).polygon(points, fill=names.index(label))
        mask.save(out / "labels" / f"{source.stem}.png")
        shutil.copy(source, out / "images" / source.name)
    (out / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return f"{out}: {len(files)} photos, {len(labels)} classes: {', '.join(labels)}"


def find_photo(file: Path) -> Path:
    """Return the photo that a JSON file of labelme names.

    Raises:
        ValueError: the photo is missing.
    """
    photo = file.parent / json.loads(file.read_text(encoding="utf-8"))["imagePath"].replace("\\", "/")
    if not photo.is_file():
        raise ValueError(f"{file}: its photo {photo} is missing; put it there")
    return photo


def read_outlines(file: Path) -> list[tuple[str, list[tuple[float, float]]]]:
    """Read label and points [px] of each shape, the largest first: small things lie on large ones.

    Raises:
        ValueError: a shape is none that has an area.
    """
    found = []
    for shape in json.loads(file.read_text(encoding="utf-8"))["shapes"]:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        kind = shape.get("shape_type", "polygon")
        if kind == "rectangle":
            (left, top), (right, bottom) = points
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        elif kind != "polygon" or len(points) < 3:
            raise ValueError(f"{file}: a {kind} of {len(points)} points; expected polygons or rectangles")
        found.append((shape["label"].strip(), points))
    return sorted(found, key=lambda shape: -area(shape[1]))


def area(points: list[tuple[float, float]]) -> float:
    """Return the area of a polygon [px^2]."""
    x, y = np.asarray(points).T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


if __name__ == "__main__":
    main()
