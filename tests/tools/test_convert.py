"""The tool from the command line."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mls_d2.checkpoint import load_backbone
from mls_d2.checkpoint.backbone_file import read_backbone, sha256
from mls_d2.errors import exit_code_of
from tests.mls_d2.checkpoint.sources import encoder, files

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert.py"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the tool in this process, which has torch imported already."""
    spec = importlib.util.spec_from_file_location("convert_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        code = exit_code_of(tool.main)
        out = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out.out, stderr=out.err)

    return call


@pytest.fixture
def moco(tmp_path: Path) -> Path:
    path = tmp_path / "moco.pth.tar"
    torch.save(files()["moco"], path)
    return path


def test_it_says_what_it_took_and_left_and_what_config_goes_with_it(
    run, moco: Path, tmp_path: Path
):
    done = run(moco, tmp_path / "out.pth")
    assert done.returncode == 0, done.stderr
    assert "MoCo v1 and v2, PCL (moco)" in done.stdout
    assert "265 tensors of 'encoder_q.' in state_dict" in done.stdout
    assert "encoder_k.bn1.bias" in done.stdout
    assert "FORMAT: RGB" in done.stdout
    file = read_backbone(str(tmp_path / "out.pth"))
    assert file.info["source_sha256"] == sha256(str(moco))
    assert torch.equal(file.state_dict["stem.conv1.weight"], encoder(0)["conv1.weight"])
    again = run(moco, tmp_path / "out.pth")
    assert again.returncode == 2
    assert "exists; take another name, or --force" in again.stderr
    named = ("--force", "--no-verify", "--method", "supervised")
    assert run(moco, tmp_path / "out.pth", *named).returncode == 0
    assert read_backbone(str(tmp_path / "out.pth")).info["method"] == "supervised"


def test_there_and_back_is_bit_equal(run, moco: Path, tmp_path: Path):
    done = run(moco, tmp_path / "tv.safetensors", "--to", "torchvision")
    assert done.returncode == 0, done.stderr
    state = load_file(tmp_path / "tv.safetensors")
    expected = {n: v for n, v in encoder(0).items() if not n.endswith("num_batches_tracked")}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert run(moco, tmp_path / "mm.pth", "--to", "mmseg").returncode == 0
    back = load_backbone(str(tmp_path / "mm.pth"), check=False).state_dict
    direct = load_backbone(str(moco), check=False).state_dict
    assert all(torch.equal(back[name], value) for name, value in direct.items())


def test_inspecting_writes_nothing_and_json_is_json(run, moco: Path, tmp_path: Path):
    before = sorted(tmp_path.iterdir())
    done = run("--inspect", "--json", moco)
    told = json.loads(done.stdout)
    assert told["source"] == "moco"
    assert told["config"]["MODEL"]["RESNETS"]["DEPTH"] == 50
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_is_converted_file_by_file(run, moco: Path, tmp_path: Path):
    (tmp_path / "broken.pth").write_bytes(b"<html>not found</html>")
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert "1 of 2 converted" in done.stdout
    assert "is a web page" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["moco.pth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give DST to convert, or --inspect"),
        (["out.safetensors"], "must end with .pth or .pkl for detectron2 names"),
        (["out.pth", "--sha256", "00"], "expected 00: not that file"),
        (["out.pth", "--source", "dino"], "no checkpoint of source 'dino'"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(run, moco, tmp_path, arguments, message):
    given = [str(tmp_path / a) if a.startswith("out.") else a for a in arguments]
    done = run(moco, *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["moco.pth.tar"]
