"""Replaces every tool: notes that it ran, and obeys ``control.json`` in its folder.

``control.json`` contains ``[[words, deed], …]``: the first entry whose words are all in the command
line decides. Without one the tool succeeds.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULT = {"pretrain": "backbone.pth", "train_net": "results.json"}


def value_after(words, name):
    return words[words.index(name) + 1]


def deed_of(words):
    path = HERE / "control.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    line = " ".join(words)
    return next((deed for needed, deed in entries if all(word in line for word in needed)), "")


def note(event, words, **more):
    entry = {"event": event, "words": words, "pid": os.getpid(), "time": time.monotonic(), **more}
    with open(HERE / "calls.jsonl", "a") as file:
        file.write(json.dumps(entry) + "\n")


def wait_for_signal(folder):
    """Work for a minute; on a signal write a checkpoint and end as the real tools do."""
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopped.append(number))
    (folder / "started").touch()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not stopped:
        time.sleep(0.01)
    if not stopped:
        sys.exit("no signal came")
    (folder / "checkpoint").touch()
    sys.exit(130 if stopped == [signal.SIGINT] else 75)


def main():
    kind, *words = sys.argv[1:]
    environment = {
        name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    }
    deed = deed_of([kind, *words])
    if "--dry-run" in words:
        note("check", [kind, *words])
        sys.exit(f"a log\nerror: {deed[7:]}" if deed.startswith("refuse ") else 0)
    note("start", [kind, *words], environment=environment)
    if kind == "report":
        sys.exit(int(deed or 0))
    if kind == "convert":
        Path(words[1]).write_bytes(Path(words[0]).read_bytes())
        return
    folder = Path(value_after(words, "OUTPUT_DIR"))
    if deed == "fail":
        sys.stdout.write("first line\nerror: no such thing\n")
        sys.exit(2)
    if deed == "kill":
        sys.stdout.write("7/10 loss 1.0\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "wait" and not (folder / "checkpoint").exists():
        wait_for_signal(folder)
    if deed == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        (folder / "started").touch()
        time.sleep(60)
    if deed == "slow":
        time.sleep(0.3)
    if deed != "nothing":
        # What comes out follows from what went in, as with the real tools.
        made = [word for word in words if not word.startswith(str(folder))]
        config = Path(value_after(words, "--config-file")).read_text()
        (folder / RESULT[kind]).write_text(" ".join([*made, config]))
    note("end", [kind, *words])


if __name__ == "__main__":
    main()
