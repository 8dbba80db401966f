"""What the folder of a cell says of it."""

import dataclasses

from mls_d2.runner.cells import plan_cells
from mls_d2.runner.store import Store


def test_a_record_of_another_content_in_the_same_folder_is_none(bench):
    (cell,) = plan_cells(bench.suite(methods=["random"]), gpus=False)
    bench.run(methods=["random"])
    store = Store(bench.out)
    place = store.place(cell)
    record = store.record(place)
    assert store.is_finished(cell, place)
    # A folder's name has only the first letters of the key.
    store.write(place, dataclasses.replace(record, key=f"{record.key[:-1]}x"))
    assert store.record(place) is None
    assert not store.is_finished(cell, place)
    assert bench.run(methods=["random"])["coco/random-seed0"].status == "finished"
    assert store.record(place).key == place.key
