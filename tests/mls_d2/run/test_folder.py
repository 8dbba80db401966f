"""What may differ between a run and its resumption."""

import json

import pytest

from mls_d2.config.defaults import get_cfg
from mls_d2.run.folder import RunState, run_state


@pytest.fixture
def unfinished(tmp_path):
    """The config of an unfinished run of eight processes, in its folder."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path), 3
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE = 256, 8
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "environment.json").write_text(json.dumps({"inputs": {}}))
    (tmp_path / "model_0000001.pth").touch()
    return cfg


def state(cfg):
    return run_state(cfg, "backbone.pth", resume=True)


def test_another_number_of_processes_may_go_on_with_the_same_batch(unfinished, refuses):
    assert state(unfinished) is RunState.RESUME
    unfinished.SOLVER.REFERENCE_WORLD_SIZE = 4
    assert state(unfinished) is RunState.RESUME
    unfinished.SOLVER.IMS_PER_BATCH = 128
    with refuses("changed-run") as caught:
        state(unfinished)
    assert "SOLVER.IMS_PER_BATCH: was 256, is 128" in str(caught.value)
    assert "was of 8 processes, this one is of 4" in str(caught.value)
    assert "add SOLVER.REFERENCE_WORLD_SIZE 4; or use the old values" in str(caught.value)


def test_other_changes_are_refused_without_a_word_on_processes(unfinished, refuses):
    unfinished.SOLVER.BASE_LR = 7.0
    for reference in (8, 0):
        unfinished.SOLVER.REFERENCE_WORLD_SIZE = reference
        with refuses("changed-run") as caught:
            state(unfinished)
        assert "processes" not in str(caught.value)
