"""The 80 objects of COCO by their usual names, and the other names that folders of detectors have for them."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAMES = tuple(
    re.findall(
        r"\w[\w ]*",
        """
        person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
        parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
        handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
        surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
        broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
        laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
        scissors, teddy bear, hair drier, toothbrush
        """,
    )
)
# As mmdet's early lists have them, which many folders on the Hub took over.
_OTHERS = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


def usual_names(labels: Sequence[str]) -> list[str]:
    """Give the labels of a detector with COCO's usual name in the place of another one, unless the detector has a label
    of that name too.

    >>> usual_names(["sofa", "tvmonitor", "lamp"])
    ['couch', 'tv', 'lamp']
    """
    return [_OTHERS[label] if _OTHERS.get(label, label) not in labels else label for label in labels]
