import json
import math
import os

import numpy as np
import pytest

from mls_d2.results.schema import Device, collect_results, read_result, write_result


@pytest.fixture
def path(tmp_path, make_result):
    """A results.json of the default result."""
    write_result(tmp_path / "new" / "results.json", make_result())
    return tmp_path / "new" / "results.json"


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_written_result_reads_back_equal(path, make_result):
    assert read_result(path) == make_result()
    change(path, added_later=1)
    assert read_result(path) == make_result()


def test_the_file_is_strict_json_with_sorted_keys_and_a_newline(path, make_result):
    metrics = {"bbox": {"AP": np.float32(1.5), "AP50": math.nan, "AP75": math.inf}}
    numbers = {"peak_memory_mb": math.nan, "wall_time_s": np.float64(2.5), "seed": np.int64(3)}
    write_result(path, make_result(metrics=metrics, command="bad \udcff name", **numbers))
    text = path.read_text()
    fields = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert text.endswith("}\n")
    assert list(fields) == sorted(fields)
    assert fields["metrics"]["bbox"] == {"AP": 1.5, "AP50": None, "AP75": None}
    assert (fields["peak_memory_mb"], fields["wall_time_s"], fields["seed"]) == (None, 2.5, 3)
    back = read_result(path)
    assert math.isnan(back.metrics["bbox"]["AP50"])
    assert math.isnan(back.peak_memory_mb)
    assert back.command == "bad \udcff name"


def test_a_refused_result_leaves_the_old_file_and_nothing_else(path, make_result, refuses):
    before = path.read_text()
    with refuses("bad-value", "'metrics.bbox.AP' is str, expected a number"):
        write_result(path, make_result(metrics={"bbox": {"AP": "high"}}))
    with refuses("bad-value", "'versions.torch' is a object"):
        write_result(path, make_result(versions={"torch": object()}))
    assert path.read_text() == before
    assert os.listdir(path.parent) == ["results.json"]


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("device", {"kind": "cpu", "name": "x"}, "missing required field `count` - at `$.device`"),
        ("seed", "0", "Expected `int`, got `str` - at `$.seed`"),
        ("seed", True, "Expected `int`, got `bool` - at `$.seed`"),
        ("metrics", [], "Expected `object`, got `array` - at `$.metrics`"),
        ("metrics", {"bbox": 3.0}, "Expected `object`, got `float` - at `$.metrics[...]`"),
        ("metrics", {"bbox": {"AP": "x"}}, "field 'metrics.bbox.AP' is str"),
        ("metrics", {"bbox": {"AP": True}}, "field 'metrics.bbox.AP' is bool"),
        ("dataset", {}, "missing required field `name` - at `$.dataset`"),
        ("backbone", [], "Expected `object`, got `array` - at `$.backbone`"),
        ("wall_time_s", "long", "field 'wall_time_s' is str, expected a number or null"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(path, refuses, field, value, place):
    change(path, **{field: value})
    with refuses("damaged-file", place, str(path)):
        read_result(path)


def test_every_field_is_required(path, refuses):
    complete = json.loads(path.read_text())
    for field in set(complete) - {"schema"}:
        path.write_text(json.dumps({key: complete[key] for key in complete if key != field}))
        with refuses("damaged-file", f"`{field}`"):
            read_result(path)


def test_version_1_gains_an_unknown_device_and_keeps_all_else(path, make_result):
    fields = json.loads(path.read_text())
    del fields["device"]
    path.write_text(json.dumps({**fields, "schema": 1}))
    unknown = Device(kind="unknown", name="", count=0)
    assert read_result(path) == make_result(device=unknown)
    assert json.loads(path.read_text())["schema"] == 1


@pytest.mark.parametrize(
    ("schema", "remedy"),
    [(3, "update mls_d2"), *((bad, "run that evaluation again") for bad in (0, "2", None, True))],
)
def test_other_versions_are_refused(path, refuses, schema, remedy):
    change(path, schema=schema)
    with refuses("unknown-version", f"schema {schema!r}, expected one of [1, 2]; {remedy}"):
        read_result(path)


def test_collecting_skips_and_names_every_bad_file(tmp_path, make_result):
    for seed in (0, 1):
        write_result(tmp_path / "b" / f"{seed}" / "results.json", make_result(seed=seed))
    text = (tmp_path / "b/0/results.json").read_text()
    bad = {
        "cut": text[: len(text) // 2].encode(),
        "empty": b"",
        "list": b"[]",
        "nested": b"[" * 100_000,
        "binary": b"\xff\xfe\x00",
        "old": text.replace('"schema": 2', '"schema": 0').encode(),
    }
    for name, content in bad.items():
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "results.json").write_bytes(content)
    results, problems = collect_results([tmp_path])
    assert [item.result.seed for item in results] == [0, 1]
    assert len(problems) == len(bad)
    for name in bad:
        assert sum(str(tmp_path / "a" / name) in problem for problem in problems) == 1


def test_results_behind_links_are_found_once_by_the_link_even_if_links_are_circular(
    tmp_path, make_result, refuses
):
    write_result(tmp_path / "cells" / "0123" / "results.json", make_result())
    for name in ("coco/mls-seed0", "voc/again"):
        (tmp_path / "suite" / name).parent.mkdir(parents=True)
        os.symlink(tmp_path / "cells" / "0123", tmp_path / "suite" / name)
    os.symlink(tmp_path / "suite", tmp_path / "suite" / "coco" / "round")
    os.symlink(tmp_path / "nowhere", tmp_path / "suite" / "broken")
    link = tmp_path / "suite/coco/mls-seed0/results.json"
    results, problems = collect_results([tmp_path / "suite", link])
    assert [item.path for item in results] == [link]
    assert problems == []
    with refuses("missing-file"):
        collect_results([tmp_path / "nowhere"])
