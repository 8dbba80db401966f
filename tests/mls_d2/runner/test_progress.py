"""Plain lines, as a log file gets them."""

import io

from mls_d2.runner.cells import plan_cells
from mls_d2.runner.job import Outcome
from mls_d2.runner.progress import Progress


class Running:
    def __init__(self, cell, line):
        self.cell, self._line = cell, line

    def last_line(self):
        return self._line


def test_lines_say_what_starts_and_ends_and_how_far_it_is(bench):
    pretrain, coco, voc = plan_cells(
        bench.suite(methods=["mls"], tasks=["coco", "voc"]), gpus=False
    )
    stream = io.StringIO()
    progress = Progress([pretrain, coco, voc], {coco.family: 60.0, voc.family: 30.0}, 1, stream)
    progress(
        {},
        [Running(pretrain, "[11/24 07:01:02 mls_d2.run.progress]: 20/1488  loss 3.2  ETA 0:05:00")],
    )
    assert stream.getvalue().splitlines() == [
        "pretrain/mls-seed0 starts",
        "0 of 3 done; pretrain/mls-seed0 20/1488; about 0:01:30 and 1 of unknown length to go",
    ]
    outcomes = {
        pretrain: Outcome("finished", seconds=61.4),
        coco: Outcome("failed", "exit code 2", 1.0, ("error: x",), "out/cells/a"),
        voc: Outcome("reused"),
    }
    progress(outcomes, [])
    progress(outcomes, [])
    progress.close()
    assert stream.getvalue().splitlines()[2:] == [
        "[3/3] pretrain/mls-seed0 finished in 0:01:01",
        "[3/3] coco/mls-seed0 failed: exit code 2",
        "    its output is in out/cells/a",
        "[3/3] voc/mls-seed0 was finished before",
    ]


def test_a_terminal_gets_a_bar(bench):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=False)
    stream = Terminal()
    progress = Progress([cell], {}, 1, stream)
    progress({}, [Running(cell, "3/8")])
    progress.close()
    assert "coco/random-seed0 3/8; time unknown to go" in stream.getvalue()
