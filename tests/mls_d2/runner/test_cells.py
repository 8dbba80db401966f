"""What changes the key of a cell, and what does not."""

import json

import pytest

from mls_d2.scenes.marker import MARKER_NAME, SceneParams, write_marker


def keys(bench, gpus=False, **content):
    return {cell.name: cell.key("w") for cell in bench.cells(gpus, **content)}


def task(**opts):
    return {"tasks": [{"task": "coco", "opts": opts}]}


def test_the_graph_of_two_rows_two_tasks_and_two_seeds(bench):
    cells = bench.cells(tasks=["coco", "voc"], seeds=[0, 1])
    needs = {cell.name: cell.needs and cell.needs.name for cell in cells}
    assert needs == {
        "coco/random-seed0": None,
        "coco/random-seed1": None,
        "voc/random-seed0": None,
        "voc/random-seed1": None,
        "pretrain/mls-seed0": None,
        "coco/mls-seed0": "pretrain/mls-seed0",
        "coco/mls-seed1": "pretrain/mls-seed0",
        "voc/mls-seed0": "pretrain/mls-seed0",
        "voc/mls-seed1": "pretrain/mls-seed0",
    }
    assert list(needs).index("pretrain/mls-seed0") == 4


def test_pretraining_may_follow_the_seed_and_a_task_may_have_its_own_seeds(bench):
    tasks = ["coco", {"task": "voc", "seeds": [1]}]
    content = {"methods": ["mls"], "tasks": tasks, "seeds": [0, 1], "pretrain_seed": "follow"}
    needs = {cell.name: cell.needs and cell.needs.name for cell in bench.cells(**content)}
    assert needs == {
        "pretrain/mls-seed0": None,
        "pretrain/mls-seed1": None,
        "coco/mls-seed0": "pretrain/mls-seed0",
        "coco/mls-seed1": "pretrain/mls-seed1",
        "voc/mls-seed1": "pretrain/mls-seed1",
    }


@pytest.mark.parametrize(
    "changed",
    [
        task(**{"SOLVER.BASE_LR": 0.5}),
        task(**{"MODEL.RPN.NMS_THRESH": 0.6}),
        {"tasks": ["voc"]},
    ],
)
def test_another_recipe_is_another_transfer(bench, changed):
    base, other = keys(bench, methods=["random"]), keys(bench, methods=["random"], **changed)
    assert set(base.values()).isdisjoint(other.values())


@pytest.mark.parametrize(
    "same",
    [
        task(**{"DATALOADER.NUM_WORKERS": 0}),
        task(**{"OUTPUT_DIR": "elsewhere"}),
        task(**{"SOLVER.CHECKPOINT_PERIOD": 7}),
        task(**{"SOLVER.MAX_ITER": 8}),  # what the file says already
        {"num_gpus": 8},  # there are none here
    ],
)
def test_what_does_not_decide_the_result_changes_nothing(bench, same):
    assert keys(bench, methods=["random"]) == keys(bench, methods=["random"], **same)


def test_what_a_pretraining_only_monitors_changes_nothing(bench):
    def pretraining(**opts):
        method = {"name": "mls", "method": "mls", "opts": opts}
        return keys(bench, methods=[method])["pretrain/mls-seed0"]

    monitors = {
        "PRETRAIN.ONLINE_EVAL.PERIOD": 1.0,
        "PRETRAIN.LABEL_QUALITY": True,
        "PRETRAIN.PERMANENT_PERIOD": 2.0,
    }
    assert pretraining(**monitors) == pretraining()
    assert pretraining(**{"PRETRAIN.EPOCHS": 3.0}) != pretraining()


def test_seed_weights_gpus_and_data_decide(bench, monkeypatch, tmp_path):
    (cell,) = bench.cells(methods=["random"])
    assert cell.key("a") != cell.key("b")
    base = keys(bench, methods=["random"], seeds=[0, 1])
    assert base["coco/random-seed0"] != base["coco/random-seed1"]
    assert keys(bench, gpus=True) == keys(bench)
    eight = keys(bench, gpus=True, num_gpus=8)
    assert set(eight.values()).isdisjoint(keys(bench).values())
    (tmp_path / "others").mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "others"))
    assert set(keys(bench).values()).isdisjoint(base.values())


def test_without_tasks_a_suite_pretrains_alone(bench):
    content = {"methods": ["mls", "mocov2"], "tasks": [], "seeds": [0, 1]}
    assert list(keys(bench, **content)) == ["pretrain/mls-seed0", "pretrain/mocov2-seed0"]
    content |= {"methods": ["mls"], "pretrain_seed": "follow"}
    assert list(keys(bench, **content)) == ["pretrain/mls-seed0", "pretrain/mls-seed1"]


def test_the_scenes_of_other_tasks_do_not_count(bench, tmp_path):
    root = tmp_path / "datasets"

    def with_scenes(**more):
        write_marker(root, SceneParams(**more), [], complete=True)
        assert json.loads((root / MARKER_NAME).read_text())["synthetic"]
        tasks = [
            {"task": "coco", "opts": {"DATASETS.TRAIN": "('coco_2017_train',)"}},
            {"task": "voc", "opts": {"DATASETS.TRAIN": "('voc_2007_trainval',)"}},
            {"task": "voc", "name": "cls", "opts": {"DATASETS.TRAIN": "('voc2007_trainval',)"}},
        ]
        return keys(bench, methods=["random"], tasks=tasks)

    def changed(**more):
        other = with_scenes(**more)
        return {name.partition("/")[0] for name in base if base[name] != other[name]}

    base = with_scenes()
    assert changed() == changed(cityscapes=8) == set()
    assert changed(voc=8) == {"voc", "cls"}
    assert changed(seed=3) == {"coco", "voc", "cls"}


def test_cells_of_one_recipe_are_one_family_for_any_seed_and_method(bench):
    families = {}
    for cell in bench.cells(tasks=["coco", "voc"], seeds=[0, 1]):
        families.setdefault(cell.family, set()).add(cell.name.partition("/")[0])
    assert sorted(map(sorted, families.values())) == [["coco"], ["pretrain"], ["voc"]]


def test_a_checkpoint_is_identified_by_its_bytes_and_name(bench, tmp_path):
    one, copy, other = (tmp_path / name for name in ("one.pth", "copy.pth", "other.pth"))
    for path, text in ((one, "a"), (copy, "a"), (other, "b")):
        path.write_text(text)
    of = [keys(bench, checkpoints={"given": path})["convert/given"] for path in (one, copy, other)]
    assert of[0] == of[1] != of[2]
    assert keys(bench, checkpoints={"renamed": one})["convert/renamed"] != of[0]


def test_the_dataset_and_epochs_of_a_checkpoint_count(bench, tmp_path):
    (tmp_path / "one.pth").write_text("a")
    said = ({}, {"dataset": "imagenet"}, {"dataset": "imagenet", "epochs": 90}, {"epochs": 90})
    methods = [{"name": "given", "checkpoint": str(tmp_path / "one.pth"), **more} for more in said]
    assert len({keys(bench, methods=[item])["convert/given"] for item in methods}) == 4


def test_a_config_with_an_unknown_key_is_refused_before_anything_runs(bench, refuses):
    with refuses("unknown-key", "SOLVER.BASE_LR'"):
        keys(bench, **task(**{"SOLVER.BASE_LRR": 1}))
