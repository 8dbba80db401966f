"""Finding the project's configs and suites by name."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from mls_d2 import commands
from mls_d2.core import resources
from mls_d2.core.resources import find_config, find_suite
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("mls_coco_400ep", "pretrain/configs/mls_coco_400ep.yaml"),
        ("mls_coco_400ep.yaml", "pretrain/configs/mls_coco_400ep.yaml"),
        ("table8_k1", "pretrain/configs/ablations/table8_k1.yaml"),
        ("pspnet_R_50_40k", "transfer_configs/cityscapes/pspnet_R_50_40k.yaml"),
    ],
)
def test_a_name_is_a_config_of_the_project(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == str(REPOSITORY / path)


def test_a_file_of_the_user_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mls_quick.yaml").touch()
    Path("quick").touch()
    assert find_config("mls_quick.yaml") == "mls_quick.yaml"
    assert find_config("mls_quick") == str(REPOSITORY / "pretrain/configs/mls_quick.yaml")
    assert find_suite("quick") == "quick"
    assert find_suite("quick.yaml") == str(REPOSITORY / "suites/quick.yaml")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("mls_coco_40ep", "'mls_coco_400ep'"),
        ("mask_rcnn_R_50_FPN_3x.yaml", "'mask_rcnn_R_50_FPN_2x'"),
        ("./mls_quick", "no config file './mls_quick'; valid: 'mine.yaml'"),
        ("nowhere/mls_quick", "there is no folder 'nowhere' either"),
        ("./", "'./' is a folder, expected a config file; it holds mine.yaml"),
    ],
)
def test_what_is_no_config_is_refused_with_the_nearest(given, hint, tmp_path, monkeypatch, refuses):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    with refuses("missing-file", hint):
        find_config(given)


def test_no_two_configs_have_the_same_name():
    folders = [REPOSITORY / "pretrain" / "configs", REPOSITORY / "transfer_configs"]
    names = Counter(path.stem for folder in folders for path in folder.rglob("*.yaml"))
    assert not [name for name, count in names.items() if count > 1]


def test_an_installed_package_has_its_own_files(tmp_path, monkeypatch):
    assert (resources.checkout(), resources.root()) == (REPOSITORY, REPOSITORY)
    monkeypatch.setattr(resources, "_INSTALLED", tmp_path)
    assert (resources.checkout(), resources.root()) == (None, tmp_path)


@pytest.mark.parametrize("script", ["mls-convert", "mls-demo"])
def test_a_script_becomes_its_tool(script, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execv", lambda *call: calls.append(call))
    monkeypatch.setattr(sys, "argv", [f"bin/{script}", "--data", "."])
    commands.main()
    tool, *words = commands.COMMANDS[script]
    assert bool(words) == (script == "mls-demo")
    path = str(REPOSITORY / "tools" / tool)
    assert calls == [(sys.executable, [sys.executable, path, *words, "--data", "."])]
