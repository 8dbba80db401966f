"""What a suite may say, and what is said where it says something else."""

from pathlib import Path

import pytest

from mls_d2.benchmark.suite import build_suite, parse_seeds, read_suite
from mls_d2.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]


def test_names_stand_for_the_configs_of_the_preset(bench):
    suite = bench.suite(methods="random, mls", tasks="voc coco", seeds="0,2")
    random, mls = suite.rows
    assert (random.config, random.checkpoint) == (None, None)
    assert mls.config == bench.root / "pretrain/configs/mls_quick.yaml"
    assert [task.config.name for task in suite.tasks] == [
        "faster_rcnn_R_50_C4_quick.yaml",
        "mask_rcnn_R_50_FPN_quick.yaml",
    ]
    assert suite.seeds == (0, 2)
    assert (suite.name, suite.pretrain_seed, suite.num_gpus) == ("custom", 0, 1)


def test_rows_and_tasks_may_be_spelt_out(bench, tmp_path):
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
    assert suite.rows[0].opts == ("MLS.K", "7")
    assert suite.rows[1].config == suite.rows[2].checkpoint == mine
    assert suite.tasks[0].opts == ("SOLVER.MAX_ITER", "3")
    assert suite.tasks[0].seeds == (4,)
    assert suite.pretrain_seed is None


def test_a_row_that_needs_a_file_waits_for_it(bench, tmp_path):
    methods = ["random", {"name": "supervised", "needs": "a ResNet-50"}]
    suite = bench.suite(methods=methods)
    assert [row.name for row in suite.left_out] == ["supervised"]
    file = tmp_path / "r50.pth"
    file.touch()
    suite = bench.suite(methods=methods, checkpoints={"supervised": file, "other": file})
    assert [(row.name, row.checkpoint) for row in suite.rows] == [
        ("random", None),
        ("supervised", file),
        ("other", file),
    ]
    assert suite.left_out == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"methods": ["mlss"]}, "unknown method 'mlss' in preset quick; did you mean 'mls'"),
        ({"methods": ["simclr"]}, "valid: 'mls', 'mocov2', 'random'"),
        ({"tasks": ["cooc"]}, "unknown task 'cooc' in preset quick; did you mean 'coco'"),
        ({"preset": "papers"}, "preset 'papers' is not known; did you mean 'paper'"),
        ({"seed": 1}, "the suite has an unknown key 'seed'; did you mean 'seeds'"),
        ({"methods": [{"nane": "a", "method": "mls"}]}, "unknown key 'nane'; did you mean 'name'"),
        ({"methods": [{"name": "a", "method": "mls", "config": "b"}]}, "has method, config"),
        ({"methods": [{"name": "a"}]}, "and has none"),
        ({"methods": []}, "'methods' must be a list of at least one"),
        ({"methods": ["mls", "mls"]}, "methods has 'mls' more than once"),
        ({"methods": [3]}, "a method is a name or a mapping, got 3"),
        ({"methods": [{"name": "a/b", "method": "mls"}]}, "it becomes a folder"),
        ({"methods": [{"name": "a", "checkpoint": "no.pth"}]}, "there is no file 'no.pth'"),
        ({"methods": [{"name": "a", "config": "no.yaml"}]}, "there is no file 'no.yaml'"),
        ({"tasks": [{"name": "a", "opts": {}}]}, "must have either task"),
        ({"tasks": [{"task": "coco", "opts": ["A", 1]}]}, "must be a mapping of config keys"),
        ({"tasks": [{"task": "coco", "taks": 1}]}, "did you mean 'task', 'tasks'|'task'"),
        ({"seeds": [0, -1]}, "seed '-1' is not a whole number from 0 up"),
        ({"seeds": "0,one"}, "seed 'one' is not a whole number"),
        ({"seeds": [1, 1]}, "seeds has '1' more than once"),
        ({"pretrain_seed": "folow"}, "expected 'follow' or a number"),
        ({"num_gpus": 0}, "num_gpus must be a whole number from 1 up, got 0"),
        ({"name": "../x"}, "needs a name of letters"),
    ],
)
def test_mistakes_are_named(bench, content, message):
    with pytest.raises(UserError, match=message):
        bench.suite(**content)


def test_a_checkpoint_that_is_not_there_is_named_with_its_neighbours(bench, tmp_path):
    (tmp_path / "resnet50.pth").touch()
    with pytest.raises(UserError, match="did you mean 'resnet50.pth'"):
        bench.suite(checkpoints={"a": tmp_path / "resnet5.pth"})


def test_seeds_are_read_from_lists_and_text():
    assert parse_seeds("0, 1,7") == parse_seeds([0, 1, 7]) == parse_seeds("0 1 7") == (0, 1, 7)
    assert parse_seeds(3) == (3,)
    for nothing in ("", [], None, [True]):
        with pytest.raises(UserError):
            parse_seeds(nothing)


def test_a_suite_file_is_read_or_refused(tmp_path):
    (tmp_path / "quick.yaml").write_text("methods: [mls]\n")
    assert read_suite(tmp_path / "quick.yaml") == {"name": "quick", "methods": ["mls"]}
    with pytest.raises(UserError, match="No such file.*did you mean 'quick.yaml'"):
        read_suite(tmp_path / "quik.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="must be a mapping with the keys name, preset"):
        read_suite(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    with pytest.raises(UserError, match="is not YAML"):
        read_suite(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("suites/*.yaml")), ids=lambda path: path.stem
)
def test_every_suite_of_the_repository_can_be_built(path):
    suite = build_suite(read_suite(path), REPOSITORY)
    assert suite.preset == ("quick" if path.stem == "quick" else "paper")
    assert suite.rows
