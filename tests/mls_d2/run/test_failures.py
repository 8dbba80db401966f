"""Errors that a user can fix become one line; all others keep their traceback."""

import errno
import logging

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mls_d2.run.failures import is_lost_connection, one_line_failures


def allocate(device="cpu"):
    torch.empty(2**60, dtype=torch.uint8, device=device)  # An exbibyte, which no machine has.


def raise_disk_full():
    raise OSError(errno.ENOSPC, "No space left on device")


def raise_from_worker():
    raise OSError(
        "Caught OSError in DataLoader worker process 0.\nOriginal …\nOSError: [Errno 5] E\n"
    )


def raise_no_shared_memory():
    raise RuntimeError(
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback:\n  File …\n"
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_7>: No space left"
    )


@pytest.mark.parametrize(
    ("fail", "code", "words"),
    [
        (allocate, "out-of-memory", ("1152921504606846976", "CROP_SIZE (224)")),
        (raise_disk_full, "no-space", ("No space left", "--resume")),
        (raise_from_worker, "file-error", ("a worker of the data loader: OSError: [Errno 5] E",)),
        (raise_no_shared_memory, "lost-worker", ("No space left", "--shm-size")),
        pytest.param(
            lambda: allocate("cuda"),
            "out-of-memory",
            ("GiB in total", "at its peak", "CROP_SIZE (224)"),
            marks=pytest.mark.gpu,
        ),
    ],
)
def test_memory_and_disk_are_user_errors_with_numbers_and_what_to_change(
    refuses, caplog, fail, code, words
):
    with refuses(code, *words), one_line_failures("CROP_SIZE (224)"):
        fail()
    assert not caplog.records


def test_other_errors_are_raised_and_a_bug_is_logged_with_its_traceback(caplog):
    caplog.set_level(logging.ERROR, "mls_d2.run.failures")
    with pytest.raises(RuntimeError, match="shapes"), one_line_failures(""):
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert caplog.records[0].exc_info
    caplog.clear()
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]")
    for error in (lost, PermissionError(errno.EACCES, "Permission denied", "a.jpg")):
        with pytest.raises(type(error)), one_line_failures(""):
            raise error
    assert is_lost_connection(lost)
    assert not caplog.records


class Unsendable:
    """As a tensor in a shared memory that is full: it fails when a worker sends it."""

    def __reduce__(self):
        raise RuntimeError("unable to allocate shared memory(shm)")


class Items(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Unsendable() if index == 1 else index


@pytest.mark.timeout(60)
def test_a_batch_that_a_worker_cannot_send_ends_the_run_instead_of_a_wait(refuses, capfd):
    with refuses("lost-worker", "DATALOADER.NUM_WORKERS", "--shm-size"), one_line_failures(""):
        list(DataLoader(Items(), num_workers=1, batch_size=None))
    assert "unable to allocate shared memory" in capfd.readouterr().err
