"""Pushed, pulled and used: on a hub of this machine, in folders, and from a file server."""

import functools
import http.server
import json
import os
import re
import sys
import threading
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
import yaml
from detectron2.utils.file_io import PathManager

from mls_d2.checkpoint.backbone_file import read_backbone, sha256, write_backbone
from mls_d2.checkpoint.download import fetch
from mls_d2.checkpoint.hub import hub_file
from mls_d2.convert import load_backbone
from mls_d2.core.files import sha256_of
from mls_d2.hub import list_backbones, pull, push
from mls_d2.hub.card import pretraining_cost
from mls_d2.results.schema import InitialWeights, read_result, write_result
from mls_d2.run.registration import register_all
from mls_d2.runner.suite import build_suite
from tests.conftest import REPOSITORY
from tests.mls_d2.checkpoint.test_initial_weights import encoder, small_cfg
from tests.mls_d2.hub.server import COMMIT, Hub
from tests.mls_d2.report.conftest import build_result
from tools.benchmark import split_checkpoint
from tools.hub import main

NAME = "org/mls-r50"
INFO = {
    "method": "mls", "dataset": ["coco_2017_unlabeled"], "epochs": 24.0, "iterations": 3600,
    "synthetic": True, "seed": 3, "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375], "input_format": "RGB",
}  # fmt: skip
FILES = {"model.safetensors", "config.json", "README.md"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    # huggingface_hub reads its environment once, on import.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    place = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_file.cache_clear()
    yield server
    hub_file.cache_clear()
    server.close()


@pytest.fixture
def backbone(tmp_path):
    """A file of the bits that float32 has: subnormal, negative zero, largest."""
    bits = torch.randint(-(2**31), 2**31, (64, 3, 7, 7)).to(torch.int32).view(torch.float32)
    tensors = {
        "stem.conv1.weight": torch.where(bits.isfinite(), bits, 1e-42),
        "stem.conv1.norm.bias": torch.tensor([0.0, -0.0, 3.4e38, -1e-45]),
    }
    (tmp_path / "run").mkdir()
    path = str(tmp_path / "run" / "backbone.pth")
    write_backbone(path, tensors, INFO)
    return path


def bits_of(path):
    return {
        name: value.view(torch.int32).tolist()
        for name, value in read_backbone(path).state_dict.items()
    }


def test_a_round_trip_over_the_hub_is_bit_equal(hub, backbone, tmp_path):
    digest = push(backbone, f"hf://{NAME}", licence="apache-2.0")
    assert set(hub.files[NAME]) == FILES
    assert any(line.startswith("POST") and "/lfs/" in line for line in hub.asked)
    assert pull(f"hf://{NAME}@main", str(tmp_path / "pulled")) == digest
    pulled = tmp_path / "pulled" / "model.safetensors"
    assert sha256_of(str(pulled)) == digest
    for path in (str(pulled), f"hf://{NAME}", f"hf://{NAME}@{COMMIT}/model.safetensors"):
        assert bits_of(path) == bits_of(backbone)
        assert read_backbone(path).info == INFO
    # Pushed again from there it is the same file.
    assert push(str(pulled), str(tmp_path / "again"), licence="mit") == digest
    assert [place for place, _ in list_backbones("hf://org")] == [f"hf://{NAME}"]


def test_every_reader_of_weights_takes_the_path_and_asks_once(hub, backbone, tmp_path):
    push(backbone, f"hf://{NAME}", licence="apache-2.0")
    hub.asked.clear()
    path = f"hf://{NAME}"
    assert sha256(path) == sha256_of(fetch(path))
    register_all()
    assert PathManager.get_local_path(path) == fetch(path)
    with PathManager.open(path, "rb") as file:
        assert file.read() == hub.files[NAME]["model.safetensors"]
    assert len([line for line in hub.asked if line.startswith("GET")]) == 2  # with its config
    suite = build_suite({"methods": [{"name": "a", "backbone": path}], "tasks": "coco"}, REPOSITORY)
    assert suite.methods[0].backbone == split_checkpoint(f"a={path}")[1] == Path(fetch(path))


def test_refusals_are_one_line_and_nothing_is_left(hub, backbone, tmp_path, refuses):
    push(backbone, f"hf://{NAME}", licence="apache-2.0")
    cases = {
        "hf://org/mls-r51": ("missing-file", "no such repository"),
        f"hf://{NAME}@v2": ("missing-file", "no such revision"),
        f"hf://{NAME}/model.safetensor": ("missing-file", "did you mean 'model.safetensors'"),
        "hf://mls-r50": ("bad-value", "hf://org/name[@revision][/file]"),
    }
    for path, (code, told) in cases.items():
        with refuses(code) as caught:
            read_backbone(path)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
    with refuses("missing-file"):
        pull("hf://org/mls-r51", str(tmp_path / "pulled"))
    assert os.listdir(tmp_path) == ["run"]


def test_a_wrong_hash_is_refused_and_not_kept(hub, backbone, tmp_path, refuses):
    push(backbone, f"hf://{NAME}", licence="apache-2.0")
    right = hub.files[NAME]["model.safetensors"]
    hub.files[NAME]["model.safetensors"] = right[:-1] + bytes([right[-1] ^ 1])
    with refuses("wrong-digest"):
        pull(f"hf://{NAME}", str(tmp_path / "pulled"))
    assert not (tmp_path / "pulled").exists()
    hub.files[NAME]["model.safetensors"] = right
    pull(f"hf://{NAME}", str(tmp_path / "pulled"))


def test_a_download_that_is_cut_off_is_refused_and_not_kept(hub, backbone, monkeypatch, refuses):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between its attempts
    push(backbone, f"hf://{NAME}", licence="apache-2.0")
    hub.cut = 100
    with refuses("download-failed") as caught:
        read_backbone(f"hf://{NAME}")
    assert "\n" not in str(caught.value)
    hub.cut = None
    assert bits_of(f"hf://{NAME}") == bits_of(backbone)


def test_offline_the_cache_serves_and_nothing_else(hub, backbone, tmp_path, monkeypatch, refuses):
    push(backbone, f"hf://{NAME}", licence="apache-2.0")
    for name in FILES:
        fetch(f"hf://{NAME}/{name}")
    hub_file.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    pull(f"hf://{NAME}", str(tmp_path / "pulled"))
    assert bits_of(str(tmp_path / "pulled/model.safetensors")) == bits_of(backbone)
    with refuses("missing-file") as caught:
        read_backbone("hf://org/other")
    assert "HF_HUB_OFFLINE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hub.asked == []


def test_folders_and_file_servers(backbone, tmp_path, refuses):
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    digest = push(backbone, str(zoo / "mls-r50"), licence="mit")
    (zoo / "other").mkdir()
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(zoo))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    sources = [str(zoo), f"http://127.0.0.1:{server.server_port}"]
    for number, source in enumerate(sources):
        ((place, config),) = list_backbones(source)
        assert (place, config["license"]) == (f"{source}/mls-r50", "mit")
        pulled = tmp_path / f"pulled{number}"
        assert pull(place, str(pulled)) == digest
        assert set(os.listdir(pulled)) == FILES
        assert bits_of(str(pulled / "model.safetensors")) == bits_of(backbone)
        with refuses("missing-file"):
            pull(f"{source}/other", str(tmp_path / "none"))
    assert bits_of(f"{sources[1]}/mls-r50/model.safetensors") == bits_of(backbone)
    server.shutdown()
    server.server_close()
    with refuses("missing-file"):
        list_backbones(str(zoo / "other"))
    with refuses("file-exists"):
        push(backbone, str(zoo / "mls-r50"), licence="mit")
    with refuses("bad-value"):
        push(backbone, f"{sources[1]}/new", licence="mit")
    torch.save({"stem.conv1.weight": torch.ones(2, device="meta")}, tmp_path / "meta.pth")
    with refuses("bad-tensor"):
        push(str(tmp_path / "meta.pth"), str(zoo / "meta"), licence="mit")
    config = json.loads((zoo / "mls-r50/config.json").read_text())
    config["sha256"]["model.safetensors"] = "0" * 64
    (zoo / "mls-r50/config.json").write_text(json.dumps(config))
    with refuses("wrong-digest"):
        pull(str(zoo / "mls-r50"), str(tmp_path / "none"))


def test_the_card_has_origin_cost_and_the_results_that_started_from_it(backbone, tmp_path):
    run = Path(backbone).parent
    lines = [{"iteration": at, "time": 2.0, "peak_memory_mb": 100.0 * at} for at in (1, 2)]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    assert pretraining_cost(run, INFO) == "3600 steps, 2 hours, 200 MiB"
    for seed, value, digest in (
        (0, 40.0, sha256(backbone)),
        (1, 42.0, sha256(backbone)),
        (2, 9.0, "0"),
    ):
        given = InitialWeights(file=backbone, sha256=digest, info=INFO)
        found = build_result(seed=seed, backbone=given, metrics={"bbox": {"AP": value}})
        write_result(tmp_path / f"out/{seed}/results.json", found)
    push(backbone, str(tmp_path / "mls"), licence="cc-by-4.0", results=[tmp_path / "out"])
    card = (tmp_path / "mls/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["library_name"] == "mls_d2"
    for text in (
        "24",
        "generated scenes",
        "2 hours",
        sha256(str(tmp_path / "mls/model.safetensors")),
    ):
        assert text in card
    assert "seeds 0, 1\n" in card
    assert "41.00 ± 1.41" in card
    assert read_result(tmp_path / "out/0/results.json").backbone.info == INFO


def test_the_five_lines_of_the_card_load_it(hub, tmp_path):
    cfg = small_cfg()
    path = str(tmp_path / "backbone.pth")
    write_backbone(path, encoder(cfg).state_dict(), INFO)
    push(path, f"hf://{NAME}", licence="apache-2.0")
    (lines,) = re.findall(r"(?s)```python\n(.*?)```", hub.files[NAME]["README.md"].decode())
    assert len(lines.splitlines()) == 5
    names = {"cfg": cfg}
    exec(re.sub(r"cfg := load_cfg\(.*\]\)", "cfg", lines), names)
    loaded = names["model"].state_dict()["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(loaded, read_backbone(path).state_dict["stem.conv1.weight"])
    assert load_backbone(f"hf://{NAME}").info["method"] == "mls"


def test_the_tool_pushes_lists_and_pulls(backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    for words in (f"push {backbone} zoo/a/ --license mit", "list zoo/", "pull zoo/a"):
        monkeypatch.setattr(sys, "argv", ["hub.py", *words.split()])
        main()
    digest = sha256_of("a/model.safetensors")
    assert capsys.readouterr().out.splitlines() == [
        f"pushed zoo/a/, sha256 {digest}",
        f"zoo/a: mls, 24.0 epochs, mit, sha256 {digest[:12]}",
        f"pulled a, sha256 {digest}: verified",
    ]
