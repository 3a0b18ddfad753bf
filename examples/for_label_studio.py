"""Write a task for Label Studio: python examples/for_label_studio.py PHOTO ADDRESS TASKS.json."""

import json
import sys
from pathlib import Path

from ovsdino_runtime import Segmenter
from ovsdino_runtime.integrations.label_studio import to_label_studio

CLASSES = "road|street, bus, car, person, grass|lawn, tree, signboard"


def main(photo: str, address: str, out: str) -> None:
    """Segment a photo; Label Studio finds it at the address."""
    with Segmenter.load("nano") as segmenter:
        prediction = to_label_studio(segmenter(photo, CLASSES))
    tasks = [{"data": {"image": address}, "predictions": [prediction]}]
    Path(out).write_text(json.dumps(tasks), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
