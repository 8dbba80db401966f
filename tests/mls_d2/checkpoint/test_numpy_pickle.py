"""Pickles are read without running what they ask for."""

import codecs
import collections
import io
import os
import pickle
import subprocess

import numpy as np
import pytest

from mls_d2.checkpoint.unpickling import ForbiddenGlobalError, unpickle


def read(data: bytes):
    return unpickle(io.BytesIO(data))


class Hostile:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_come_back_equal(protocol):
    content = collections.OrderedDict(
        a=np.arange(6, dtype=np.float32).reshape(2, 3),
        b=np.float64([[0.1]]).T,
        c=np.array(True),
        d="text",
    )
    result = read(pickle.dumps(content, protocol=protocol))
    assert list(result) == list(content)
    for name in "abc":
        assert result[name].dtype == content[name].dtype
        np.testing.assert_array_equal(result[name], content[name])


def test_the_names_of_numpy_1_are_read():
    data = pickle.dumps(np.arange(3.0), protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core" in data
    np.testing.assert_array_equal(read(data), np.arange(3.0))


@pytest.mark.parametrize(
    ("hostile", "named"),
    [
        (Hostile(os.system, "touch ran"), "system"),
        (Hostile(eval, "open('ran', 'w')"), "eval"),
        (Hostile(subprocess.call, ["touch", "ran"]), "call"),
        (Hostile(getattr, "text", "encode"), "getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_pickles_are_refused_by_name_and_do_not_run(
    hostile, named, protocol, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"model": {"x": hostile}}, protocol=protocol)
    with pytest.raises(ForbiddenGlobalError, match=rf"\.{named}'"):
        read(data)
    assert os.listdir(tmp_path) == []


def test_other_codecs_than_latin1_are_refused():
    with pytest.raises(ForbiddenGlobalError, match="codec 'zlib'"):
        read(pickle.dumps(Hostile(codecs.encode, "x", "zlib"), protocol=2))


def test_a_near_miss_of_an_allowed_name_is_refused():
    # The pair has to match exactly: a dotted attribute of an allowed module does not.
    data = b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tobytes\x93."
    with pytest.raises(ForbiddenGlobalError, match="ndarray.tobytes"):
        read(data)
