"""What the tests of whole pretraining runs share."""

import pytest


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
        "SOLVER.CHECKPOINT_PERIOD": "2",
        "MOCO.DICTIONARY_SIZE": "16",
        "MOCO.PROJECTOR_HIDDEN_DIM": "16",
        "MOCO.PROJECTOR_OUT_DIM": "8",
        "MLS.K": "3",
        "SEED": "1",
    }
