"""Label values of each data set: map raw values to classes of our vocabulary, or to IGNORED."""

from ovsdino_runtime.files.labeled_folder import Values
from ovsdino_runtime.geometry.metrics import IGNORED
from ovsdino_runtime.text.vocabulary import load_vocabulary

# Source: cityscapesScripts, ``labels.py``: ids of the 19 evaluated classes, in the order of their train ids.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Source: cocostuff, ``labels.txt``: values of stuffthingmaps (id - 1) that COCO left out of its 182.
STUFF_UNUSED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
LAST_THING = 90  # of stuffthingmaps' values; those above are stuff
# Source: mmseg and CAT-Seg, converters of Pascal Context: which of the 459 categories make
# the 59, increasing.
# The 459 are in alphabetical order, so the converters' PNGs number the 59 alphabetically too, unlike the
# official list of 59, which begins with the 20 of VOC (open-mmlab/mmsegmentation, issues 1940 and 3021).
CONTEXT_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
    *(
        158,
        159,
        162,
        187,
        189,
        207,
        220,
        232,
        258,
        259,
        260,
        284,
        295,
        296,
        308,
        324,
        326,
        347,
        349,
        354,
        355,
    ),
    *(360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)


def cityscapes_ids() -> Values:
    """Return the values of ``labelIds`` PNGs."""
    ignored = dict.fromkeys((*range(34), 255), IGNORED)
    return ignored | {value: label for label, value in enumerate(CITYSCAPES_IDS)}


def stuff_pixels() -> Values:
    """Return the values of ``stuffthingmaps`` PNGs as COCO-Stuff's 171 classes."""
    used = [value for value in range(182) if value not in STUFF_UNUSED]
    return {value: label for label, value in enumerate(used)} | {255: IGNORED}


def object_pixels() -> Values:
    """Return the values of ``stuffthingmaps`` PNGs as COCO-Object: 80 things, everything else background.

    Source: GroupViT, ``convert_coco_object.py``, which defines COCO-Object; unlabelled pixels are background.
    """
    things = {value: label + 1 if value <= LAST_THING else 0 for value, label in stuff_pixels().items()}
    return things | {255: 0}


def context_categories(*, background: bool) -> Values:
    """Return the categories of ``trainval_merged.json``; 0 is background."""
    shift = int(background)
    classes = _context_classes()
    return {category: label + shift for category, label in zip(CONTEXT_IDS, classes, strict=True)} | {
        0: 0 if background else IGNORED
    }


def context_pixels(*, background: bool) -> Values:
    """Return the values of mmseg's converted PNGs: 0 background, then the 59 in alphabetical order."""
    shift = int(background)
    return {value + 1: label + shift for value, label in enumerate(_context_classes())} | {
        0: 0 if background else IGNORED,
        255: IGNORED,
    }


def context_pixels_reduced() -> Values:
    """Return the values of CAT-Seg's converted PNGs: the 59 in alphabetical order, 255 elsewhere."""
    return dict(enumerate(_context_classes())) | {255: IGNORED}


def _context_classes() -> list[int]:
    """Return our index of each of the 59 classes, in alphabetical order."""
    names = load_vocabulary("context59").names
    return sorted(range(len(names)), key=names.__getitem__)
