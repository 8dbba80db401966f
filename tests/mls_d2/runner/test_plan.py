"""The time to go, worked out by hand, and what is printed while a suite runs."""

import io
from types import SimpleNamespace

import pytest

from mls_d2.runner.display import Display
from mls_d2.runner.plan import time_to_go
from mls_d2.runner.store import Store
from mls_d2.runner.tool_process import Outcome

SECONDS = {"long": 10.0, "short": 4.0}


class Cell:
    # Compared by identity, as the real ones are.
    def __init__(self, family, needs=None):
        self.family, self.needs = family, needs


@pytest.mark.parametrize(
    ("families", "jobs", "text"),
    [
        ("long short short", 1, "about 0:00:18"),
        ("long short short", 2, "about 0:00:10"),  # 10 beside 4 + 4
        ("long new new", 2, "about 0:00:10 and 2 of unknown length"),
        ("new", 1, "time unknown"),
        ("", 1, "no time"),
    ],
)
def test_time_to_go_of_cells_side_by_side(families, jobs, text):
    assert time_to_go([Cell(family) for family in families.split()], SECONDS, jobs) == text


def test_time_to_go_of_cells_that_wait_and_cells_that_run():
    source = Cell("long")
    assert time_to_go([Cell("short", source), source], SECONDS, 8) == "about 0:00:14"
    assert time_to_go([source], SECONDS, 1, elapsed={source: 7.5}) == "about 0:00:02"
    assert time_to_go([source], SECONDS, 1, elapsed={source: 70}) == "no time"


@pytest.fixture
def cells(bench):
    """Cells with the last lines of their output."""
    pretrain, coco, voc = bench.cells(methods=["mls"], tasks=["coco", "voc"])
    folder = Store(bench.out).place(pretrain).folder
    folder.mkdir(parents=True)
    line = "[11/24 07:01:02 mls_d2.run.progress]: 20/1488  loss 3.2  ETA 0:05:00"
    (folder / "output.txt").write_text(f"$ old\nold\n$ tool\n1/8\r2/8\n{line}\nhalf a line")
    return pretrain, coco, voc


def show(bench, cells, stream, **options):
    pretrain, coco, voc = cells
    display = Display(cells, Store(bench.out), {coco.family: 60.0}, 1, stream, **options)
    display({}, [SimpleNamespace(cell=pretrain, started=True)])
    outcomes = {
        pretrain: Outcome("finished", seconds=61.4),
        coco: Outcome("failed", "exit code 2", 1.0, ("error: x",), "out/cells/a"),
        voc: Outcome("reused"),
    }
    display(outcomes, [])
    display(outcomes, [])
    display.close()


END = [
    "[3/3] pretrain/mls-seed0 finished in 0:01:01",
    "[3/3] coco/mls-seed0 failed: exit code 2",
    "    its output is in out/cells/a",
    "[3/3] voc/mls-seed0 was finished before",
]


def test_lines_tell_what_starts_and_ends_and_how_far_it_is(bench, cells):
    folder = Store(bench.out).place(cells[0]).folder / "output.txt"
    folder.write_text(folder.read_text().removesuffix("half a line"))
    stream = io.StringIO()
    show(bench, cells, stream)
    assert stream.getvalue().splitlines() == [
        "pretrain/mls-seed0 starts",
        # The 5 minutes that the cell has printed, then the known minute of the next.
        "0 of 3 done; pretrain/mls-seed0 20/1488; about 0:06:00 and 1 of unknown length to go",
        *END,
    ]


@pytest.mark.parametrize(
    ("line", "step", "time"),
    [
        ("20/90  loss 3.2  ETA 2 days, 1:00:05", " 20/90", "about 2 days, 1:00:05"),
        ("Inference done 11/300. Total: 0.0761 s/iter. ETA=0:00:21", " 11/300", "about 0:00:21"),
        ("20/90  loss 3.2", " 20/90", "time unknown"),
        ("Serializing 400 elements", "", "time unknown"),
    ],
)
def test_step_and_time_to_go_of_a_running_cell_are_those_that_it_printed_last(
    bench, monkeypatch, line, step, time
):
    monkeypatch.setattr("mls_d2.runner.display._LINE_S", 0.0)
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr("mls_d2.runner.display.time", clock)
    (cell,) = bench.cells(methods=["mls"], tasks=[])
    folder = Store(bench.out).place(cell).folder
    folder.mkdir(parents=True)
    stream = io.StringIO()
    display = Display([cell], Store(bench.out), {}, 1, stream)
    for now, last in ((0.0, "$ tool"), (60.0, line), (60.0, "saved model_0000099.pth")):
        clock.now = now
        (folder / "output.txt").write_text(f"{last}\n")
        display({}, [SimpleNamespace(cell=cell, started=True)])
        shown = (step, time) if now else ("", "time unknown")
        assert stream.getvalue().endswith("0 of 1 done; {}{}; {} to go\n".format(cell.name, *shown))


def test_the_output_of_the_tools_is_printed_after_their_names(bench, cells):
    stream = io.StringIO()
    show(bench, cells, stream, follow=True)
    assert stream.getvalue().splitlines() == [
        "pretrain/mls-seed0 starts",
        "pretrain/mls-seed0: $ tool",
        "pretrain/mls-seed0: 2/8",
        "pretrain/mls-seed0: [11/24 07:01:02 mls_d2.run.progress]: 20/1488  loss 3.2  ETA 0:05:00",
        *END,
    ]


def test_a_terminal_gets_a_bar(bench, cells):
    stream = io.StringIO()
    stream.isatty = lambda: True
    show(bench, cells, stream)
    assert "to go" in stream.getvalue()
    assert "\r" in stream.getvalue()
