"""What the tests of whole pretraining runs share."""

import numpy as np
import pytest
from PIL import Image

from mls_d2.config.loading import load_cfg
from mls_d2.data.proposals import ProposalsWriter, image_key
from pretrain.data import image_source
from pretrain.proposing import Search


def write_images(folder, names, size=(40, 50), drawn=None):
    """Write noise of ``size``, height and width; ``drawn``, a smaller size, is enlarged to it."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        pixels = rng.integers(0, 256, (*(drawn or size), 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size[::-1]).save(folder / name)
    return folder


@pytest.fixture
def tiny() -> dict[str, str]:
    """Keys and values that make a run of seconds out of a config."""
    return {
        "PRETRAIN.METHOD": "mls",
        "PRETRAIN.EPOCHS": "2.0",
        "PRETRAIN.LOG_PERIOD": "1",
        "PRETRAIN.AUGMENT.CROP_SIZE": "32",
        "MODEL.DEVICE": "cpu",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "16",
        "MODEL.RESNETS.WIDTH_PER_GROUP": "4",
        "DATALOADER.NUM_WORKERS": "0",
        "SOLVER.REFERENCE_WORLD_SIZE": "0",
        "SOLVER.IMS_PER_BATCH": "4",
        "SOLVER.BASE_LR": "0.05",
        # oneDNN leaves gradients of 3x3 kernels on maps of 1x1, those of views of 16 pixels, unset.
        "SOLVER.AMP.ENABLED": "False",
        "SOLVER.CHECKPOINT_PERIOD": "2",
        "MOCO.DICTIONARY_SIZE": "16",
        "MOCO.PROJECTOR_HIDDEN_DIM": "16",
        "MOCO.PROJECTOR_OUT_DIM": "8",
        "MLS.K": "3",
        "SEED": "1",
    }


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", [f"{index}.png" for index in range(9)])


@pytest.fixture
def proposals(images, tmp_path) -> str:
    """A file of proposals of the images, of which every third has none; nothing is searched."""
    source, path = image_source([str(images)]), str(tmp_path / "proposals.boxes")
    writer = ProposalsWriter(path, Search().recipe(source))
    boxes = np.array([[0, 0, 33, 32], [2, 5, 40, 38]])
    for place in range(9):
        writer.append(image_key(source.read(place)), (40, 50), boxes[: 2 if place % 3 else 0])
    writer.finish()
    return path


@pytest.fixture
def config(tiny, tmp_path, request):
    """Return a function that returns the config of a tiny run, on ``images`` if nothing is said."""
    root = request.config.rootpath

    def make(output: str = "run", **changes: str):
        values = tiny | {"OUTPUT_DIR": str(tmp_path / output)}
        if "DATASETS__TRAIN" not in changes:
            values |= {"DATASETS.TRAIN": f"('{request.getfixturevalue('images')}',)"}
        values |= {key.replace("__", "."): value for key, value in changes.items()}
        words = [word for pair in values.items() for word in pair]
        return load_cfg(str(root / "pretrain/configs/mocov2_coco_400ep.yaml"), words)

    return make
