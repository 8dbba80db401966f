#!/usr/bin/env python3
"""Time and memory of converting a ResNet-50, verified, each time in a fresh process.

The file is a MoCo checkpoint of the real sizes with random values: two encoders, so about twice a
ResNet-50, and a queue; ``--bare`` makes one of a single encoder. Memory is the largest resident set
of the process minus what it had after its imports.
"""

import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from multiprocessing.connection import Connection

import torch
from timing import parse
from torchvision.models import resnet50

from mls_d2.convert.convert import load_backbone, write_converted
from mls_d2.core.errors import run_tool


def make_file(path: str, *, bare: bool) -> None:
    """Write a checkpoint of a ResNet-50 with its classifier, or of MoCo with two of them."""
    state = resnet50(weights=None).state_dict()
    if not bare:
        state = {f"module.encoder_{k}.{n}": v.clone() for k in "qk" for n, v in state.items()}
        state["module.queue"] = torch.randn(128, 65536)
    torch.save({"state_dict": state}, path)


def convert(src: str, dst: str, threads: int, answer: Connection) -> None:
    """Convert once; send wall and processor seconds and the bytes above those after the imports."""
    torch.set_num_threads(threads)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    start, used = time.perf_counter(), time.process_time()
    write_converted(dst, load_backbone(src))
    seconds, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer.send((seconds, used, peak - before))


def main() -> None:
    """Convert several times and print the best and the median."""
    args = parse(__doc__, repeat=5, threads=2, bare=False)
    # Spawned processes do not inherit this one's memory.
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        src, dst = os.path.join(folder, "moco.pth.tar"), os.path.join(folder, "out.pth")
        make_file(src, bare=args.bare)
        size = os.path.getsize(src)
        found: list[tuple[float, float, int]] = []
        for _ in range(args.repeat):
            ours, theirs = context.Pipe()
            process = context.Process(target=convert, args=(src, dst, args.threads, theirs))
            process.start()
            theirs.close()  # So that the child's end raises EOFError here.
            found.append(ours.recv())
            process.join()
    times, used, memory = zip(*found, strict=True)
    print(f"file: {size / 1e6:.0f} MB, {args.threads} threads, {args.repeat} runs")
    print(f"time: best {min(times):.2f} s, median {statistics.median(times):.2f} s")
    print(f"processor time: best {min(used):.2f} s")
    print(f"memory: {max(memory) / 1e6:.0f} MB, {max(memory) / size:.2f} times the file")


if __name__ == "__main__":
    run_tool(main)
