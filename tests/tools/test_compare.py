"""tools/compare.py prints what make eval-… ends with."""

import subprocess
import sys
from pathlib import Path

from mls_d2.results.schema import Result, write_result

TOOL = Path(__file__).parents[2] / "tools" / "compare.py"


def run_tool(*folders):
    command = [sys.executable, "-W", "ignore", str(TOOL), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True)


def test_seeds_are_averaged_and_scenes_have_no_published_number(tmp_path):
    for seed, value in enumerate((12.0, 14.0)):
        dataset = {"name": "d", "root": "r", "num_images": 3, "synthetic": True, "fingerprint": "f"}
        result = Result(
            method="random",
            backbone={"file": "random", "sha256": "", "info": {}},
            task="voc_faster_rcnn_c4",
            preset="quick",
            metrics={"bbox": {"AP": value}},
            seed=seed,
            dataset=dataset,
            device={"kind": "cpu", "name": "", "count": 1},
            config="SOLVER: {MAX_ITER: 3}",
            versions={},
            wall_time_s=1.0,
            peak_memory_mb=1.0,
            images_per_s=1.0,
            finished="2025-01-01T00:00:00Z",
            command="tools/train_net.py",
        )
        write_result(tmp_path / f"random-seed{seed}" / "results.json", result)
    done = run_tool(tmp_path / "random-seed0", tmp_path / "random-seed1")
    assert done.returncode == 0, done.stderr
    assert "voc_faster_rcnn_c4, random, seeds 0, 1" in done.stdout
    assert "13.00 +- 1.41" in done.stdout
    assert "no published number beside it: shortened schedule, synthetic scenes" in done.stdout


def test_nothing_to_compare_is_one_line_and_exit_code_2(tmp_path):
    done = run_tool(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no usable results.json below")
    assert "Traceback" not in done.stderr
