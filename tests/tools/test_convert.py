"""The tool from the command line."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mls_d2.checkpoint.backbone_file import read_backbone, sha256
from mls_d2.convert import load_backbone
from tests.mls_d2.convert.sources import encoder, files

FAST = "--no-verify"


@pytest.fixture
def run(run_tool):
    return partial(run_tool, "convert")


@pytest.fixture
def moco(tmp_path: Path) -> Path:
    path = tmp_path / "moco.pth.tar"
    torch.save(files()["moco"], path)
    return path


def test_what_is_taken_left_and_verified_is_told(run, moco, tmp_path):
    done = run(moco, tmp_path / "out.pth")
    assert done.code == 0, done.err
    for part in (
        "MoCo v1 and v2, PCL (moco)",
        "265 tensors of 'encoder_q.' in state_dict",
        "queues, prototypes and memories: queue",
        "for --encoder: 'state_dict > encoder_k.'",
        "verified: every stage agrees",
        "FORMAT: RGB",
        f"wrote {tmp_path / 'out.pth'}",
    ):
        assert part in done.out
    file = read_backbone(str(tmp_path / "out.pth"))
    assert file.info["source_sha256"] == sha256(str(moco))
    assert torch.equal(file.state_dict["stem.conv1.weight"], encoder(0)["conv1.weight"])


def test_what_the_user_knows_is_written_and_kept(run, moco, tmp_path):
    out, ours = tmp_path / "out.pth", tmp_path / "ours.pth"
    known = ("--dataset", "imagenet", "--epochs", "200", "--set", "INPUT.FORMAT", "BGR")
    assert run(moco, out, FAST, *known).code == 0
    assert "[file-exists]" in run(moco, out).err
    link = tmp_path / "link.pth"
    link.symlink_to(moco)
    assert "is SRC itself" in run(moco, link, FAST, "--force").err
    # A file that needs no conversion is written for what is new, and keeps the rest.
    assert run(out, ours, FAST, "--dataset", "coco", "mine", "--method", "x").code == 0
    info = read_backbone(str(ours)).info
    assert (info["dataset"], info["epochs"], info["method"]) == (["coco", "mine"], 200.0, "x")
    assert (info["input_format"], info["source"]) == ("BGR", "moco")
    assert run(moco, ours, FAST, "--force").code == 0
    assert read_backbone(str(ours)).info["method"] == "moco"


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(("names", "prefix"), [("timm", ""), ("mmdet", "backbone.")])
def test_there_and_back_is_bit_equal(run, names, prefix, suffix, moco, tmp_path):
    out = tmp_path / f"there.{suffix}"
    assert run(moco, out, "--to", names, FAST).code == 0
    state = load_file(out) if suffix == "safetensors" else torch.load(out, weights_only=True)
    if prefix and suffix == "pth":
        state = state["state_dict"]
    expected = {
        prefix + n: v for n, v in encoder(0).items() if not n.endswith("num_batches_tracked")
    }
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    back = load_backbone(str(out), check=False).state_dict
    direct = load_backbone(str(moco), check=False).state_dict
    assert back.keys() == direct.keys()
    assert all(torch.equal(back[name], value) for name, value in direct.items())


def test_a_file_in_detectron2s_format_is_left_as_it_is(run, moco, tmp_path):
    assert run(moco, tmp_path / "d2.pth", FAST).code == 0
    done = run(tmp_path / "d2.pth", tmp_path / "again.pth", FAST)
    assert "nothing to convert" in done.out
    assert not (tmp_path / "again.pth").exists()
    # Another container is something to convert.
    assert run(tmp_path / "d2.pth", tmp_path / "d2.pkl", FAST).code == 0


def test_without_dst_the_file_is_written_beside_src(run, moco, tmp_path, monkeypatch):
    assert run(moco, FAST, "--to", "timm").code == 0
    assert (tmp_path / "moco_timm.pth").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    told = json.loads(run(moco.as_uri(), FAST, "--json").out)
    assert (told["dst"], told["already_detectron2"]) == ("moco_d2.pth", False)
    assert told["config"]["MODEL"]["RESNETS"]["DEPTH"] == 50
    assert (tmp_path / "here" / "moco_d2.pth").is_file()


def test_inspecting_describes_and_writes_nothing(run, moco, tmp_path):
    before = sorted(tmp_path.iterdir())
    told = json.loads(run("--inspect", "--json", moco).out)
    assert (told["source"], told["taken"]) == ("moco", "state_dict > encoder_q.")
    assert told["entries"] == {"args": "Namespace", "epoch": "int", "state_dict": "dict"}
    assert "taken: state_dict > encoder_q." in run("--inspect", moco).out
    assert "[bad-value]" in run("--inspect", moco, "out.pth").err
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_is_converted_file_by_file(run, moco, tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"<html>not found</html>")
    (tmp_path / "moco.ckpt").write_bytes(moco.read_bytes())
    done = run(tmp_path, tmp_path / "out", FAST)
    assert done.code == 2
    assert "1 of 3 converted" in done.out
    assert "is a web page" in done.out
    assert "is of another file here" in done.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["moco.pth"]
    rows = json.loads(run(tmp_path, "--inspect", "--json").out)
    assert ["refused" in row for row in rows] == [True, False, False]
    assert "give a folder DST" in run(tmp_path).err


def test_the_sources_are_listed(run):
    done = run("--list-sources")
    assert "| `moco` | MoCo v1 and v2, PCL | `encoder_q.` |" in done.out
    assert "checkpoint_0099.pth.tar" in done.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["out.safetensors"], "bad-value"),
        (["out.pkl", "--to", "timm"], "bad-value"),
        (["out.pth", "--sha256", "0" * 64], "wrong-digest"),
        (["out.pth", "--source", "dino"], "other-source"),
        (["out.pth", "--parts", "fpn"], "missing-part"),
        (["out.pth", "--set", "INPUT.FORMAT", "GBR"], "bad-value"),
        (["out.pth", "--epochs", "0"], "bad-value"),
        (["out.pth", "--epochs", "nan"], "bad-value"),
        (["out.none/x.pth"], "no-space"),
        (["moco.pth.tar/out.pth"], "no-space"),
        (["folder.pth"], "bad-value"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(run, moco, tmp_path, arguments, code):
    (tmp_path / "folder.pth").mkdir()
    done = run(moco, tmp_path / arguments[0], *arguments[1:])
    assert done.code == 2
    assert f"[{code}]" in done.err
    assert "Traceback" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.pth", "moco.pth.tar"]
    assert run().code == 2
