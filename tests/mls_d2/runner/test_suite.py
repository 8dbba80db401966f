"""The content of suites, and the mistakes in them."""

import pytest

from mls_d2.config.loading import load_cfg
from mls_d2.report.published import builtin_published, matching_row
from mls_d2.results.schema import InitialWeights
from mls_d2.runner.cells import plan_cells
from mls_d2.runner.suite import Seeds, build_suite, method_configs, read_suite, task_configs
from mls_d2.transfer.tasks import task_of
from tests.conftest import REPOSITORY

SUITES = sorted(REPOSITORY.glob("suites/*.yaml"))
PAPER = sorted(REPOSITORY.glob("suites/paper_*.yaml"))


def test_names_stand_for_the_configs_of_the_repository():
    quick, paper = (method_configs(REPOSITORY, preset) for preset in ("quick", "paper"))
    assert {"mls", "mocov2", "byol"} <= quick.keys()
    assert quick.keys() | {"mls-800ep", "table8_k5"} <= paper.keys()
    assert paper["mls-800ep"].name == "mls_coco_800ep.yaml"
    quick, paper = (
        {name: [task.name for task in tasks] for name, tasks in found.items()}
        for found in (task_configs(REPOSITORY, preset) for preset in ("quick", "paper"))
    )
    for names in (quick, paper):
        assert names["cityscapes"] == ["cityscapes-pspnet", "cityscapes-psanet"]
        assert names["all"][:5] == ["coco", "coco-c4", "voc", *names["cityscapes"]]
        assert names["all"][5:] == names["cls"]
    assert (quick["demo"], paper["demo"]) == (["coco", "scenes-objects-knn"], ["coco"])
    assert quick["cls"] == [
        *("voc2007-finetune", "voc2007-svm", "voc2007-knn", "scenes-objects-finetune"),
    ]
    assert len(paper["cls"]) == 8
    assert "voc2007-linear" in quick.keys() & paper.keys()


@pytest.mark.parametrize(
    ("tasks", "content", "seeds"),
    [
        ("voc", {}, [0, 1, 2]),
        ("cityscapes-psanet", {}, [0, 1]),
        ("coco", {}, [0]),
        ("voc", {"seeds": 4}, [4]),
        ([{"task": "voc", "seeds": [7]}], {"seeds": 4}, [7]),
    ],
)
def test_the_papers_tasks_have_the_papers_seeds(tasks, content, seeds):
    content |= {"preset": "paper", "methods": ["random"], "tasks": tasks}
    suite = build_suite(content, REPOSITORY)
    assert [cell.content["seed"] for cell in plan_cells(suite, gpus=False)] == seeds


def test_the_papers_tasks_run_on_no_more_gpus_than_their_recipes_are_for():
    def gpus(asked):
        content = {"preset": "paper", "methods": "mls", "tasks": "all", "seeds": 0}
        cells = plan_cells(build_suite(content | {"num_gpus": asked}, REPOSITORY), gpus=True)
        return {cell.name.partition("/")[0]: cell.num_gpus for cell in cells}

    eight = gpus(8)
    assert {eight.pop(name) for name in ("cityscapes-pspnet", "cityscapes-psanet")} == {4}
    assert {eight.pop(name) for name in ("pretrain", "coco", "coco-c4", "voc")} == {8}
    assert set(eight.values()) == {1}
    assert max(gpus(2).values()) == 2


def test_lists_may_be_text_and_entries_may_be_mappings(bench, tmp_path):
    suite = bench.suite(methods="random, mls", tasks="voc coco", seeds="0,2")
    random, mls = suite.methods
    assert (random.config, random.checkpoint, random.backbone) == (None, None, None)
    assert mls.config == bench.root / "pretrain/configs/mls_quick.yaml"
    assert [task.config.stem for task in suite.tasks] == [
        *("faster_rcnn_R_50_C4_quick", "mask_rcnn_R_50_FPN_quick"),
    ]
    assert suite.seeds == (0, 2)
    assert (suite.name, suite.pretrain_seed, suite.num_gpus) == ("custom", 0, 1)
    mine = tmp_path / "mine.yaml"
    mine.write_text("")
    suite = bench.suite(
        methods=[
            {"name": "k7", "method": "mls", "opts": {"MLS.K": 7}},
            {"name": "mine", "config": str(mine)},
            {"name": "given", "checkpoint": str(mine)},
        ],
        tasks=[{"name": "short", "task": "coco", "opts": {"SOLVER.MAX_ITER": 3}, "seeds": [4]}],
        pretrain_seed="follow",
    )
    assert suite.methods[0].opts == {"MLS.K": 7}
    assert suite.methods[1].config == suite.methods[2].checkpoint == mine
    (task,) = suite.tasks
    assert (task.name, task.opts, task.seeds) == ("short", {"SOLVER.MAX_ITER": 3}, (4,))
    assert suite.pretrain_seed is None


def test_options_of_the_command_line_are_for_the_tasks_or_for_a_pretraining_alone(bench):
    content = {"methods": [{"name": "k7", "method": "mls", "opts": {"A": 1, "B": 2}}]}
    alone = build_suite(content, bench.root, opts=["B", "3"])
    assert alone.methods[0].opts == {"A": 1, "B": "3"}
    suite = build_suite(content | {"tasks": "coco voc"}, bench.root, opts=["B", "3"])
    assert suite.methods[0].opts == {"A": 1, "B": 2}
    assert [task.opts for task in suite.tasks] == [{"B": "3"}] * 2


def test_a_method_that_needs_a_file_waits_for_it(bench, tmp_path, refuses):
    origin = {"dataset": "imagenet", "epochs": 90}
    methods = ["random", {"name": "supervised", "needs": "a ResNet-50", **origin}]
    (left_out,) = bench.suite(methods=methods).left_out
    assert (left_out.name, left_out.dataset, left_out.epochs) == ("supervised", ("imagenet",), 90)
    file = tmp_path / "r50.pth"
    file.touch()
    suite = bench.suite(methods=methods, checkpoints={"supervised": file, "other": file})
    assert [(item.name, item.checkpoint, item.dataset) for item in suite.methods] == [
        ("random", None, ()),
        ("supervised", file, ("imagenet",)),
        ("other", file, ()),
    ]
    assert suite.left_out == ()
    with refuses("missing-file", "did you mean 'r50.pth'"):
        bench.suite(checkpoints={"a": tmp_path / "r5.pth"})


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ({"methods": ["mlss"]}, "unknown-name", "did you mean 'mls'"),
        ({"methods": ["simclr"]}, "unknown-name", "valid: 'mls', 'mocov2', 'random'"),
        ({"tasks": ["cooc"]}, "unknown-name", "did you mean 'coco'"),
        ({"preset": "papers"}, "bad-suite", "did you mean 'paper'"),
        ({"seed": 1}, "bad-suite", "did you mean 'seeds'"),
        ({"methods": [{"nane": "a", "method": "mls"}]}, "bad-suite", "did you mean 'name'"),
        ({"methods": [{"name": "a", "method": "mls", "config": __file__}]}, "bad-suite", "config"),
        ({"methods": [{"name": "a"}]}, "bad-suite", "none"),
        ({"methods": []}, "bad-suite", "methods"),
        ({"methods": ["mls", "mls"]}, "bad-value", "'mls'"),
        ({"methods": [3]}, "bad-suite", "$.methods[0]"),
        ({"methods": [{"name": "a/b", "method": "mls"}]}, "bad-value", "a/b"),
        ({"methods": [{"name": "a", "checkpoint": "no.pth"}]}, "missing-file", "no.pth"),
        ({"methods": [{"name": "a", "config": "no.yaml"}]}, "missing-file", "no.yaml"),
        ({"methods": [{"name": "a", "backbone": "no.pth"}]}, "missing-file", "no.pth"),
        ({"methods": [{"name": "a", "method": "random", "opts": {"A": 1}}]}, "bad-suite", "task"),
        ({"methods": [{"name": "a", "needs": "b", "opts": {"A": 1}}]}, "bad-suite", "task"),
        ({"methods": [{"method": "mls", "epochs": 4}]}, "bad-suite", "checkpoint"),
        ({"methods": [{"method": "random", "dataset": "a"}]}, "bad-suite", "checkpoint"),
        ({"methods": [{"name": "a", "needs": "b", "epochs": 0}]}, "bad-suite", "epochs"),
        ({"methods": [{"name": "a", "needs": "b", "epochs": "4"}]}, "bad-suite", "epochs"),
        ({"methods": [{"name": "a", "needs": "b", "dataset": [1]}]}, "bad-suite", "dataset"),
        ({"tasks": [{"name": "a", "opts": {}}]}, "bad-suite", "task"),
        ({"tasks": [{"task": "coco", "opts": ["A", 1]}]}, "bad-suite", "opts"),
        ({"tasks": [{"task": "coco", "taks": 1}]}, "bad-suite", "'task'"),
        ({"seeds": [0, -1]}, "bad-value", "-1"),
        ({"seeds": "0,one"}, "bad-value", "one"),
        ({"seeds": [1, 1]}, "bad-value", "'1'"),
        ({"pretrain_seed": "folow"}, "bad-suite", "'follow'"),
        ({"num_gpus": 0}, "bad-suite", "num_gpus"),
        ({"name": "../x"}, "bad-value", "../x"),
        ({"name": "cells"}, "bad-value", "cells"),
    ],
)
def test_mistakes_are_named(bench, content, code, named, refuses):
    with refuses(code, named):
        bench.suite(**content)


def test_seeds_are_read_from_lists_and_text(refuses):
    assert Seeds.parse("0, 1,7") == Seeds.parse([0, 1, 7]) == Seeds.parse("0 1 7") == (0, 1, 7)
    assert Seeds.parse(3) == (3,)
    for nothing in ("", [], None, [True]):
        with refuses("bad-value"):
            Seeds.parse(nothing)


def test_a_suite_file_is_read_or_refused(tmp_path, refuses):
    (tmp_path / "quick.yaml").write_text("methods: [mls]\n")
    assert read_suite(tmp_path / "quick.yaml") == {"name": "quick", "methods": ["mls"]}
    with refuses("missing-file", "did you mean 'quick.yaml'"):
        read_suite(tmp_path / "quik.yaml")
    for name, text in (("list", "- a\n"), ("broken", "a: [\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
        with refuses("bad-suite"):
            read_suite(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_of_the_repository_gives_its_recipes_their_gpus(path, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    suite = build_suite(read_suite(path), REPOSITORY)
    assert suite.preset in path.stem.split("_")
    assert suite.methods
    for cell in plan_cells(suite, gpus=True):
        words = cell.arguments[cell.arguments.index("PRESET") :] if suite.preset == "onegpu" else ()
        cfg = load_cfg(cell.arguments[1], words)
        assert cell.num_gpus == (cfg.SOLVER.REFERENCE_WORLD_SIZE or 1), cell.name


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_file_for_a_method_of_the_papers_tables_is_reported_beside_its_published_number(path):
    suite, published = build_suite(read_suite(path), REPOSITORY), builtin_published()
    for method in suite.left_out:
        info = {"dataset": list(method.dataset), "epochs": method.epochs}
        for task in suite.tasks:
            cfg = load_cfg(str(task.config), ())
            rows = published.of_task(task_of(cfg).name(cfg))
            backbone = InitialWeights(file="", sha256="", info=info)
            found = matching_row(rows, method.name, backbone)
            assert found is not None, (method.name, task.name)
            assert path.stem == f"paper_table{found.table}"
            # The length is given if the paper gives it.
            assert found.epochs in (None, method.epochs)
