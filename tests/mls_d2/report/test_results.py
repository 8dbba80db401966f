import json
import math
import os

import numpy as np
import pytest

from mls_d2.core.errors import UserError
from mls_d2.results.schema import collect_results, read_result, write_result


def test_a_written_result_reads_back_equal(tmp_path, make_result):
    result = make_result()
    write_result(tmp_path / "new" / "results.json", result)
    assert read_result(tmp_path / "new" / "results.json") == result


def test_the_file_is_strict_json_with_sorted_keys_and_a_newline(tmp_path, make_result):
    metrics = {"bbox": {"AP": np.float32(1.5), "AP50": math.nan, "AP75": math.inf}}
    path = tmp_path / "results.json"
    write_result(path, make_result(metrics=metrics, peak_memory_mb=math.nan, seed=np.int64(3)))
    text = path.read_text()
    fields = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert text.endswith("}\n")
    assert list(fields) == sorted(fields)
    assert fields["metrics"]["bbox"] == {"AP": 1.5, "AP50": None, "AP75": None}
    assert (fields["peak_memory_mb"], fields["seed"]) == (None, 3)
    back = read_result(path)
    assert math.isnan(back.metrics["bbox"]["AP50"])
    assert math.isnan(back.peak_memory_mb)


def test_a_refused_result_leaves_the_old_file_and_nothing_else(tmp_path, make_result):
    path = tmp_path / "results.json"
    write_result(path, make_result(ap=1.0))
    before = path.read_text()
    with pytest.raises(UserError, match=r"metrics\.bbox\.AP.* is str, expected int or float"):
        write_result(path, make_result(metrics={"bbox": {"AP": "high"}}))
    with pytest.raises(UserError, match="'versions.torch' is a object, which is not JSON"):
        write_result(path, make_result(versions={"torch": object()}))
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", 99, "schema 99, this version reads 1 to 2; it was written by a newer mls_d2"),
        ("schema", 0, "schema 0, this version reads 1 to 2; run that evaluation again"),
        ("schema", True, "schema True, this version reads 1 to 2"),
        ("device", {"kind": "cpu", "name": "x"}, "field 'device.count' is missing"),
        ("schema", None, "schema None"),
        ("seed", "0", "field 'seed' is str, expected int"),
        ("seed", True, "field 'seed' is bool, expected int"),
        ("metrics", {"bbox": 3.0}, "field 'metrics.bbox' is float, expected dict"),
        ("metrics", {"bbox": {"AP": "x"}}, "field 'metrics.bbox.AP' is str"),
        ("dataset", {}, "field 'dataset.name' is missing"),
        ("backbone", [], "field 'backbone' is list, expected dict"),
        ("wall_time_s", "long", "field 'wall_time_s' is str, expected int or float or null"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path, make_result, field, value, message):
    path = tmp_path / "results.json"
    write_result(path, make_result())
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UserError) as caught:
        read_result(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_every_field_is_required(tmp_path, make_result):
    path = tmp_path / "results.json"
    write_result(path, make_result())
    complete = json.loads(path.read_text())
    for field in set(complete) - {"schema"}:
        path.write_text(json.dumps({key: complete[key] for key in complete if key != field}))
        with pytest.raises(UserError, match=f"field '{field}' is missing"):
            read_result(path)


def test_unknown_fields_are_ignored(tmp_path, make_result):
    path = tmp_path / "results.json"
    write_result(path, make_result())
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_later": 1}))
    assert read_result(path) == make_result()


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


def test_a_file_found_twice_counts_once(tmp_path, make_result):
    path = tmp_path / "run" / "results.json"
    write_result(path, make_result())
    os.symlink(tmp_path / "run", tmp_path / "link")
    results, _ = collect_results([tmp_path, path, tmp_path / "link"])
    assert len(results) == 1


def test_results_behind_links_are_found_once_by_the_link_even_where_links_go_in_circles(
    tmp_path, make_result
):
    write_result(tmp_path / "cells" / "0123" / "results.json", make_result())
    for name in ("coco/mls-seed0", "voc/again"):
        (tmp_path / "suite" / name).parent.mkdir(parents=True)
        os.symlink(tmp_path / "cells" / "0123", tmp_path / "suite" / name)
    os.symlink(tmp_path / "suite", tmp_path / "suite" / "coco" / "round")
    os.symlink(tmp_path / "nowhere", tmp_path / "suite" / "broken")
    results, problems = collect_results([tmp_path / "suite"])
    assert [item.path for item in results] == [tmp_path / "suite/coco/mls-seed0/results.json"]
    assert problems == []


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such results folder"):
        collect_results([tmp_path / "nowhere"])
