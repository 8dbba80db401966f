"""tools/gpu_check.py: its command line, table, file and exit codes."""

import json
from pathlib import Path

import pytest
import torch


@pytest.fixture
def tool(load_tool, monkeypatch, tmp_path):
    tool = load_tool("gpu_check")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "IMAGES", 1)
    return tool


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line_and_nothing_is_written(tool, refuses, tmp_path):
    with refuses("no-gpu"):
        tool.main([])
    assert not list(tmp_path.iterdir())


def test_an_unknown_check_names_the_nearest(tool, refuses):
    with refuses("unknown-name", "'method mls'"):
        tool.main(["--device", "cpu", "--only", "method ml"])


def test_the_file_has_every_finding_and_the_machine(tool, monkeypatch, capsys):
    checks = {"one": lambda: "as it should be", "two": lambda: str(1 // 0)}
    monkeypatch.setattr(tool, "all_checks", lambda device, folder: checks)
    assert tool.main(["--device", "cpu", "--out", "new/found.json"]) == 3
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("one ok 0.0 s as it should be")
    assert "two failed" in lines[1]
    assert "ZeroDivisionError" in lines[1]
    assert lines[2] == "1 of 2 checks failed; wrote new/found.json"
    content = json.loads(Path("new/found.json").read_text())
    assert [item["state"] for item in content["checks"]] == ["ok", "failed"]
    assert content["versions"]["torch"]
    assert tool.main(["--device", "cpu", "--only", "one"]) == 0


def test_the_list_has_the_checks_of_the_documentation(tool, capsys):
    assert tool.main(["--device", "cpu", "--list"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert names[:3] == ["device", "processes", "channels_last"]
    assert {"method mls", "task mask_rcnn_R_50_C4", "loader and step"} <= set(names)
    assert names[-1] == "kill and resume"


@pytest.mark.full
def test_real_checks_on_the_cpu(tool, monkeypatch):
    monkeypatch.setattr(tool, "IMAGES", 32)
    words = ["device", "processes", "method mls", "loader and step", "kill and resume"]
    assert tool.main(["--device", "cpu", "--only", *words]) == 0
    found = json.loads(Path("gpu_check.json").read_text())["checks"]
    assert found[-1]["text"] == "resumed; the backbone differs by 0.0e+00"
