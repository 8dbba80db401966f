from pathlib import Path

import cv2
import numpy as np

from tools.make_scenes import contact_sheet, draw_annotations, main

COUNTS = ("--train", "3", "--val", "1", "--unlabeled", "1", "--size", "64", "48", "--workers", "0")


def test_it_writes_a_root_and_a_contact_sheet(tmp_path: Path, capsys):
    root, path = tmp_path / "root", tmp_path / "sheet.png"
    main(["--root", str(root), *COUNTS, "--contact-sheet", str(path)])
    assert capsys.readouterr().out == f"contact sheet: {path}\n"
    assert len(list(root.rglob("*.jpg"))) == 5
    # Four pairs per row, three pairs of 192 x 144 pixels, the last place blank.
    sheet = cv2.imread(str(path))
    assert sheet.shape == (144, 8 * 192, 3)
    assert sheet[:, : 6 * 192].any()
    assert not sheet[:, 6 * 192 :].any()
    first = cv2.imread(str(root / "coco" / "train2017" / "000000000001.jpg"))
    small = contact_sheet(root, count=1, columns=1, scale=1)
    np.testing.assert_array_equal(small[:, :64], first)


def test_annotations_colour_their_masks():
    image = np.zeros((40, 40, 3), np.uint8)
    item = {"segmentation": [[2, 3, 6, 3, 6, 8, 2, 8]], "bbox": [2, 3, 4, 5]}
    drawn = draw_annotations(image, [("", item)], 4)
    assert not image.any()
    rows, columns = np.nonzero(drawn.any(axis=2))
    box = (columns.min(), rows.min(), columns.max(), rows.max())
    np.testing.assert_allclose(box, (8, 12, 23, 31), atol=1)


def test_a_sheet_without_labelled_scenes_is_refused(tmp_path: Path, refuses):
    with refuses("missing-data"):
        contact_sheet(tmp_path)


def test_a_foreign_folder_is_one_line_and_exit_code_2(run_tool, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("")
    done = run_tool("make_scenes", "--root", tmp_path, *COUNTS)
    assert (done.code, done.err[:7], done.err.count("\n")) == (2, "error: ", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
