"""Names follow from files."""

import pytest

from mls_d2.core.errors import UserError
from mls_d2.runner.catalog import Catalog

FILES = [
    "pretrain/configs/mls_quick.yaml",
    "pretrain/configs/mls_coco_400ep.yaml",
    "pretrain/configs/mls_coco_800ep.yaml",
    "pretrain/configs/ablations/table8_k5.yaml",
    "transfer_configs/coco/mask_rcnn_R_50_FPN_1x.yaml",
    "transfer_configs/cityscapes/psanet_R_50_40k.yaml",
    "transfer_configs/cityscapes/pspnet_R_50_40k.yaml",
    "transfer_configs/cityscapes/pspnet_R_50_quick.yaml",
    "transfer_configs/classification/base.yaml",
    "transfer_configs/classification/cub200_finetune.yaml",
    "transfer_configs/classification/voc2007_finetune.yaml",
    "transfer_configs/classification/voc2007_svm.yaml",
    "transfer_configs/classification/voc2007_svm_quick.yaml",
]


@pytest.fixture
def root(tmp_path):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_methods_of_the_paper_have_lengths_and_ablations(root):
    names = {
        name: str(path.relative_to(root / "pretrain/configs"))
        for name, path in Catalog(root, "paper").methods().items()
    }
    assert names == {
        "mls": "mls_coco_400ep.yaml",
        "mls-800ep": "mls_coco_800ep.yaml",
        "table8_k5": "ablations/table8_k5.yaml",
    }
    assert list(Catalog(root, "quick").methods()) == ["mls"]


def test_tasks_are_those_that_have_a_config_in_the_preset(root):
    paper, quick = Catalog(root, "paper"), Catalog(root, "quick")
    assert set(paper.tasks()) == {
        *("coco", "cityscapes", "cityscapes-psa", "cityscapes-psp", "cls"),
        *("cub200-finetune", "voc2007-finetune", "voc2007-svm"),
    }
    assert set(quick.tasks()) == {"cityscapes", "cityscapes-psp", "voc2007-svm"}


def test_a_group_stands_for_its_tasks_in_the_papers_order(root):
    paper = Catalog(root, "paper")
    assert [name for name, _ in paper.find_task("cls")] == ["voc2007-finetune", "cub200-finetune"]
    assert [name for name, _ in paper.find_task("cityscapes")] == [
        "cityscapes-psa",
        "cityscapes-psp",
    ]
    ((name, path),) = Catalog(root, "quick").find_task("voc2007-svm")
    assert (name, path.name) == ("voc2007-svm", "voc2007_svm_quick.yaml")


def test_near_names_are_offered(root):
    with pytest.raises(UserError, match="did you mean 'voc2007-svm'"):
        Catalog(root, "paper").find_task("voc2007_svm")
    with pytest.raises(UserError, match="did you mean 'mls-800ep'"):
        Catalog(root, "paper").find_method("mls-80ep")
