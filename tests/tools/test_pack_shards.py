import numpy as np
from PIL import Image

from pretrain.sources import ShardSource


def test_a_folder_is_packed_and_how_to_use_it_is_said(run_tool, tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(3):
        image = Image.fromarray(np.full((20, 30, 3), index * 50, np.uint8))
        image.save(tmp_path / "images" / f"{index}.png")
    out = str(tmp_path / "shards")
    words = (tmp_path / "images", "--out", out, "--per-shard", "2", "--workers", "0")
    assert f"DATASETS.TRAIN \"('{out}',)\"" in run_tool("pack_shards", *words).out
    assert ShardSource(out).counts.tolist() == [2, 1]


def test_what_is_missing_is_one_line(run_tool, tmp_path):
    for arguments in ((), ("--out", tmp_path), ("a", "--index", tmp_path)):
        assert run_tool("pack_shards", *arguments).err.endswith("[bad-option]\n")
    done = run_tool("pack_shards", "nowhere", "--out", tmp_path)
    assert done.code == 2
    assert done.err.startswith("error: 'nowhere' is neither ")
