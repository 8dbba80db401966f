import json

import pytest

from mls_d2.core.errors import UserError
from mls_d2.results.migrations import RESULTS_SCHEMA, migrate
from mls_d2.results.schema import read_result, write_result


def test_the_current_version_is_left_as_it_is():
    fields = {"schema": RESULTS_SCHEMA, "anything": 1}
    assert migrate(fields, "x") == fields


def test_version_1_gains_an_unknown_device_and_keeps_all_else(tmp_path, make_result):
    path = tmp_path / "results.json"
    write_result(path, make_result())
    fields = json.loads(path.read_text())
    del fields["device"]
    path.write_text(json.dumps({**fields, "schema": 1}))
    result = read_result(path)
    unknown = {"kind": "unknown", "name": "", "count": 0}
    assert result == make_result(device=unknown)
    assert json.loads(path.read_text())["schema"] == 1


def test_the_fields_given_are_not_changed():
    fields = {"schema": 1}
    migrate(fields, "x")
    assert fields == {"schema": 1}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (RESULTS_SCHEMA + 1, "newer mls_d2: update this one"),
        (0, "run that evaluation again"),
        ("2", "schema '2'"),
        (None, "schema None"),
    ],
)
def test_other_versions_are_refused(schema, message):
    with pytest.raises(UserError, match=f"^what: schema .*this version reads 1 to 2.*|{message}"):
        migrate({"schema": schema}, "what")
