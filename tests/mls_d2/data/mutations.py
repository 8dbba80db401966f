"""Small annotation files, and seeded damage to them: as bytes, and in any field."""

import copy
import json
import os
import random

# Where the thousands of seeds of `make test-all` begin; another number by hand tries other damage.
FIRST_SEED = int(os.environ.get("FIRST_SEED", 1000))

VALUES = [
    None, True, 0, 1, -1, 7, 2**31, 2**53 + 1, 10**30, 10**400, 1.5, -2.5, 1e308, float("nan"),
    float("inf"), "", "1", "x" * 50, "é\ud800", [], [[]], [1, 2, 3], {}, {"id": 1},
    {"counts": "", "size": [20, 30]}, {"counts": "0", "size": [20, 30]},
    {"counts": [1, 2, 3], "size": [20, 30]}, [[1, 2, 3, 4, 5, float("nan")]],
]  # fmt: skip


def some_coco():
    """Two images of 30 x 20, six objects (polygons, compressed and plain RLE), three categories."""
    square = [4, 4, 14, 4, 14, 12, 4, 12]
    runs = {"counts": [100, 12, 488], "size": [20, 30]}
    kinds = [
        (0, 9, 1, [square], 0, 80),
        (7, 9, 2, [square, [20, 5, 25, 5, 25, 10]], 0, 90),
        (8, 4, 8, [square], 0, 80),
        (11, 4, 1, copy.deepcopy(runs), 1, 12),
        (12, 4, 2, {"counts": "T3<X?", "size": [20, 30]}, 0, 12),
        (13, 9, 8, copy.deepcopy(runs), 0, 12),
    ]
    return {
        "images": [
            {"id": 9, "file_name": "a.png", "width": 30, "height": 20},
            {"id": 4, "file_name": "b.png", "width": 30, "height": 20},
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": [4, 4, 10, 8],
             "segmentation": mask, "iscrowd": crowd, "area": area}
            for number, image, category, mask, crowd, area in kinds
        ],
        "categories": [
            {"id": number, "name": name} for number, name in ((8, "cow"), (1, "cat"), (2, "dog"))
        ],
    }  # fmt: skip


def mutated(content, seed):
    """Return a file with one to three random faults."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        spots = list(_spots(content))
        if not spots:
            break
        parent, key = rng.choice(spots)
        action = rng.random()
        if action < 0.25:
            del parent[key]
        elif action < 0.35 and isinstance(parent, list):
            parent.insert(rng.randint(0, len(parent)), copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    data = json.dumps(content).encode()
    return damaged(data, rng) if rng.random() < 0.2 else data


def damaged(data, rng):
    """Return bytes that are cut, or of which some are changed."""
    if rng.random() < 0.4:
        return data[: rng.randint(0, len(data))]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.choice(b'0-9e.,[]{}":\xff\x00<>/&a')
    return bytes(changed)


def _spots(content):
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        yield content, key
        if isinstance(value, dict | list):
            yield from _spots(value)
