"""The tool from the command line."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from mls_d2.checkpoint.backbone_file import read_backbone, sha256
from mls_d2.convert import load_backbone
from mls_d2.core.errors import exit_code_of
from tests.mls_d2.convert.sources import encoder, files

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
    assert "other encoders or copies of this one: encoder_k.bn1.bias" in done.stdout
    assert "queues, prototypes and memories: queue" in done.stdout
    assert "for --encoder: 'state_dict > encoder_k.'" in done.stdout
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


def test_what_the_user_says_of_the_pretraining_is_written_as_pretraining_writes_it(
    run, moco: Path, tmp_path: Path
):
    out, ours = tmp_path / "out.pth", tmp_path / "ours.pth"
    said = ("--dataset", "imagenet", "--epochs", "200", "--no-verify")
    assert run(moco, out, *said).returncode == 0
    info = read_backbone(str(out)).info
    assert (info["dataset"], info["epochs"], info["method"]) == (["imagenet"], 200.0, "moco")
    # A file that needs no conversion is written for it, and without it keeps what it says.
    assert run(out, ours, "--no-verify", "--dataset", "coco_2017_train", "mine").returncode == 0
    info = read_backbone(str(ours)).info
    assert (info["dataset"], info["epochs"]) == (["coco_2017_train", "mine"], 200.0)


PREFIXES = {"torchvision": "", "timm": "", "mmseg": "backbone.", "mmdet": "backbone."}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("names", PREFIXES)
def test_there_and_back_is_bit_equal(run, names, suffix, moco: Path, tmp_path: Path):
    out = tmp_path / f"there.{suffix}"
    done = run(moco, out, "--to", names, "--no-verify")
    assert done.returncode == 0, done.stderr
    state = load_file(out) if suffix == "safetensors" else torch.load(out, weights_only=True)
    if PREFIXES[names] and suffix == "pth":
        state = state["state_dict"]
    prefix = PREFIXES[names]
    expected = {
        prefix + n: v for n, v in encoder(0).items() if not n.endswith("num_batches_tracked")
    }
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert run(out, tmp_path / "back.pth", "--no-verify").returncode == 0
    back = read_backbone(str(tmp_path / "back.pth")).state_dict
    direct = load_backbone(str(moco), check=False).state_dict
    assert back.keys() == direct.keys()
    assert all(torch.equal(back[name], value) for name, value in direct.items())


def test_a_file_in_detectron2s_format_is_left_as_it_is(run, moco: Path, tmp_path: Path):
    assert run(moco, tmp_path / "d2.pth", "--no-verify").returncode == 0
    done = run(tmp_path / "d2.pth", tmp_path / "again.pth", "--no-verify")
    assert done.returncode == 0
    assert "nothing to convert" in done.stdout
    assert "is in Detectron2's format already; use it as it is" in done.stdout
    assert not (tmp_path / "again.pth").exists()
    # Another container, names or facts are something to convert.
    assert run(tmp_path / "d2.pth", tmp_path / "d2.pkl", "--no-verify").returncode == 0
    changed = ("--set", "INPUT.FORMAT", "BGR")
    assert run(tmp_path / "d2.pth", tmp_path / "bgr.pth", "--no-verify", *changed).returncode == 0
    assert read_backbone(str(tmp_path / "bgr.pth")).info["input_format"] == "BGR"
    assert read_backbone(str(tmp_path / "bgr.pth")).info["source"] == "moco"


def test_without_dst_the_file_is_written_beside_src(run, moco: Path, tmp_path: Path, monkeypatch):
    assert run(moco, "--no-verify").returncode == 0
    assert (tmp_path / "moco_d2.pth").is_file()
    assert run(moco, "--to", "timm", "--no-verify").returncode == 0
    assert (tmp_path / "moco_timm.pth").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(moco.as_uri(), "--no-verify").returncode == 0
    assert (tmp_path / "here" / "moco_d2.pth").is_file()


def test_inspecting_explains_and_writes_nothing(run, moco: Path, tmp_path: Path):
    before = sorted(tmp_path.iterdir())
    told = json.loads(run("--inspect", "--json", moco).stdout)
    assert (told["source"], told["taken"]) == ("moco", "state_dict > encoder_q.")
    done = run("--inspect", moco)
    assert "entries: args (Namespace), epoch (int), state_dict (dict)" in done.stdout
    assert "encoder 'state_dict > encoder_k.': torchvision names; ResNet-50" in done.stdout
    assert "would be taken: 'state_dict > encoder_q.'" in done.stdout
    assert "writes nothing; leave DST away" in run("--inspect", moco, "out.pth").stderr
    assert sorted(tmp_path.iterdir()) == before


def test_json_is_json(run, moco: Path, tmp_path: Path):
    told = json.loads(run("--json", "--no-verify", moco, tmp_path / "x.pth").stdout)
    assert told["config"]["MODEL"]["RESNETS"]["DEPTH"] == 50
    assert (told["dst"], told["already_detectron2"]) == (str(tmp_path / "x.pth"), False)


def test_a_folder_is_converted_file_by_file(run, moco: Path, tmp_path: Path):
    (tmp_path / "broken.pth").write_bytes(b"<html>not found</html>")
    (tmp_path / "moco.ckpt").write_bytes(moco.read_bytes())
    done = run(tmp_path, tmp_path / "out", "--no-verify")
    assert done.returncode == 2
    assert "1 of 3 converted" in done.stdout
    assert "is a web page" in done.stdout
    assert "'s is of another file here" not in done.stdout
    assert "is of another file here; rename one of them" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["moco.pth"]
    rows = json.loads(run(tmp_path, tmp_path / "out2", "--no-verify", "--json").stdout)
    assert ["refused" in row for row in rows] == [True, False, True]
    done = run(tmp_path, "--inspect")
    assert "2 of 3 recognised" in done.stdout
    assert "give a folder DST" in run(tmp_path).stderr


def test_digests_of_many_files_come_from_a_list(run, moco: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.pth", "b.pth", "c.pth"):
        (folder / name).write_bytes(moco.read_bytes())
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{sha256(str(moco))}  a.pth\n{'0' * 64} *in/b.pth\n")
    done = run(folder, tmp_path / "out", "--sha256", sums, "--no-verify")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["a.pth", "moco"]
    assert f"expected {'0' * 64}: not that file" in lines[1]
    assert "has no line for 'c.pth'" in lines[2]
    good = ("--sha256", sha256(str(moco)).upper(), "--no-verify")
    assert run(moco, tmp_path / "one.pth", *good).returncode == 0


def test_the_sources_are_listed(run):
    done = run("--list-sources")
    assert "| `moco` | MoCo v1 and v2, PCL | `encoder_q.` |" in done.stdout
    assert "checkpoint_0099.pth.tar" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.safetensors"], "must end with .pth or .pkl for detectron2 names"),
        (["out.pkl", "--to", "timm"], "must end with .pth or .safetensors for timm names"),
        (["out.pth", "--sha256", "0" * 64], f"expected {'0' * 64}: not that file"),
        (["out.pth", "--sha256", "00"], "expected 64 hex digits, or a file that `sha256sum`"),
        (["out.pth", "--source", "dino"], "no checkpoint of source 'dino'"),
        (["out.pth", "--parts", "fpn"], "there is no fpn in it"),
        (["out.pth", "--set", "INPUT.FORMAT", "GBR"], "expected RGB or BGR"),
        (["out.pth", "--set", "INPUT.FORMAT", "[a"], "no value of a config"),
        (["out.pth", "--epochs", "0"], "--epochs must be a number above 0, got 0"),
        (["out.pth", "--epochs", "nan"], "--epochs must be a number above 0, got nan"),
        (["out.none/x.pth"], "cannot write to"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(run, moco, tmp_path, arguments, message):
    given = [str(tmp_path / a) if a.startswith("out.") else a for a in arguments]
    done = run(moco, *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["moco.pth.tar"]


def test_dst_is_checked_before_the_work(run, moco: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "out.pth").mkdir()
    assert "is a folder; name the file to write" in run(moco, tmp_path / "out.pth").stderr
    # Root may write anywhere, but not below a file.
    done = run(moco, moco / "out.pth")
    assert "cannot write to" in done.stderr
    assert run().returncode == 2


def test_a_write_that_fails_leaves_nothing(run, moco: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.pth").write_bytes(b"before")

    def fill_the_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    done = run(moco, out / "x.pth", "--force", "--no-verify")
    assert "No space left on device" in done.stderr
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("x.pth", b"before")]
