"""What a suite may say, and what is said where it says something else."""

from pathlib import Path

import pytest

from mls_d2.config.loading import load_cfg
from mls_d2.core.errors import UserError
from mls_d2.report.published import matching_row
from mls_d2.report.published_file import builtin_published
from mls_d2.run.processes import scale_to_processes
from mls_d2.runner.suite import build_suite, parse_seeds, read_suite
from mls_d2.transfer.tasks import task_of

REPOSITORY = Path(__file__).resolve().parents[3]
PAPER = sorted(REPOSITORY.glob("suites/paper_*.yaml"))


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
    said = {"dataset": "imagenet", "epochs": 90}
    methods = ["random", {"name": "supervised", "needs": "a ResNet-50", **said}]
    suite = bench.suite(methods=methods)
    assert [(row.name, row.dataset, row.epochs) for row in suite.left_out] == [
        ("supervised", ("imagenet",), 90.0)
    ]
    file = tmp_path / "r50.pth"
    file.touch()
    suite = bench.suite(methods=methods, checkpoints={"supervised": file, "other": file})
    assert [(row.name, row.checkpoint, row.dataset, row.epochs) for row in suite.rows] == [
        ("random", None, (), None),
        ("supervised", file, ("imagenet",), 90.0),
        ("other", file, (), None),
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
        ({"methods": [{"name": "a", "method": "random", "opts": {"A": 1}}]}, "'a' change nothing"),
        ({"methods": [{"name": "a", "needs": "b", "opts": {"A": 1}}]}, "give them to the task"),
        (
            {"methods": [{"name": "a", "checkpoint": __file__, "opts": {"A": 1}}]},
            "opts of method 'a' change nothing",
        ),
        ({"methods": [{"method": "mls", "epochs": 4}]}, "epochs of method 'mls' belong to a check"),
        (
            {"methods": [{"method": "random", "dataset": "a", "epochs": 4}]},
            "dataset and epochs of method 'random' belong to a checkpoint",
        ),
        ({"methods": [{"name": "a", "needs": "b", "epochs": 0}]}, "above 0, got 0"),
        ({"methods": [{"name": "a", "needs": "b", "epochs": "4"}]}, "above 0, got '4'"),
        ({"methods": [{"name": "a", "needs": "b", "dataset": [1]}]}, r"list of them, got \[1\]"),
        ({"methods": [{"name": "a", "needs": "b", "dataset": []}]}, r"list of them, got \[\]"),
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


def paper_suite(path):
    return build_suite(read_suite(path), REPOSITORY)


def configs(suite):
    """Return the config of every task and pretraining of a suite, and the GPUs it is given."""
    of_tasks = [(task.config, task.opts, task.num_gpus or suite.num_gpus) for task in suite.tasks]
    return of_tasks + [(row.config, row.opts, suite.num_gpus) for row in suite.rows if row.config]


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_tables_run_on_the_gpus_that_their_configs_are_made_for(path):
    for config, opts, num_gpus in configs(paper_suite(path)):
        cfg = load_cfg(str(config), opts)
        assert scale_to_processes(cfg, num_gpus) == cfg, config.name


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_file_for_a_row_of_the_papers_tables_stands_beside_its_published_number(path):
    suite, published = paper_suite(path), builtin_published()
    for row in suite.left_out:
        info = {"dataset": list(row.dataset), "epochs": row.epochs}
        for task in suite.tasks:
            cfg = load_cfg(str(task.config), task.opts)
            rows = published.of_task(task_of(cfg).name(cfg))
            found = matching_row(rows, method=row.name, info=info)
            assert found is not None, (row.name, task.name)
            assert path.stem == f"paper_table{found.table}"
            # It says how long where the paper does.
            assert found.epochs in (None, row.epochs)
