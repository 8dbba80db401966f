"""A preempted Slurm job, in submitit's local imitation, ends with the weights of a whole run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.pretrain.conftest import write_images

# tools/pretrain.py with another cluster.
PROGRAM = """
import sys, time
from mls_d2.config.loading import load_cfg
from mls_d2.run.launch import tool_parser
from mls_d2.runner import slurm
from pretrain.run import pretrain

def run(args):
    pretrain(load_cfg(args.config_file, args.opts), resume=args.resume)

parser = tool_parser("", "")
slurm.add_slurm_arguments(parser)
args = parser.parse_args()
slurm.submit(run, args, load_cfg(args.config_file, args.opts), cluster="local")
"""


def wait_until(condition, what):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within two minutes"
        time.sleep(0.02)


@pytest.mark.full
def test_a_preempted_job_of_two_processes_is_requeued_and_ends_as_a_whole_run(
    tiny, tmp_path, request
):
    names = [f"{index}.png" for index in range(9)]
    images = write_images(tmp_path / "images", names, (80, 100), drawn=(4, 5))
    (tmp_path / "program.py").write_text(PROGRAM)

    def begin(name):
        values = tiny | {"DATASETS.TRAIN": f"('{images}',)", "OUTPUT_DIR": str(tmp_path / name)}
        values |= {"PRETRAIN.EPOCHS": "60.0", "SOLVER.CHECKPOINT_PERIOD": "1000"}
        words = ["--config-file", "pretrain/configs/mocov2_coco_400ep.yaml"]
        words += ["--num-gpus", "2", "--slurm", "gpu"]
        words += [word for pair in values.items() for word in pair]
        # The imitation of Slurm inherits the output, so a pipe would stay open until the job ends.
        output = tmp_path / f"{name}.txt"
        with output.open("w") as file:
            subprocess.run(
                [sys.executable, str(tmp_path / "program.py"), *words],
                cwd=request.config.rootpath,
                env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdout=file,
                timeout=120,
                check=True,
            )
        return int(output.read_text().split()[3].rstrip(";"))

    def is_done(name):
        return (tmp_path / name / "backbone.pth").exists()

    begin("whole")
    wait_until(lambda: is_done("whole"), "end of the whole run")
    controller = begin("preempted")
    log = tmp_path / "preempted" / "metrics.json"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 2, "iteration")
    tasks = subprocess.run(["pgrep", "-P", str(controller)], stdout=subprocess.PIPE, text=True)
    os.kill(int(tasks.stdout.split()[1]), signal.SIGUSR2)
    wait_until(lambda: list(log.parent.glob("model_0*.pth")), "checkpoint")
    assert not is_done("preempted")
    wait_until(lambda: is_done("preempted"), "end of the preempted run")
    assert "resumed from" in (log.parent / "log.txt").read_text()
    ends = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("whole", "preempted")
    ]
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key
    environment = json.loads((log.parent / "environment.json").read_text())
    assert environment["world_size"] == 2
