"""Takes the pictures of docs/gallery.md, with Chromium: python docs/images/gallery.py output/quick.

The folder is one of the runner, with its report. The live page shows what is running just then.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from PIL import Image

from mls_d2.report.live import make_server
from mls_d2.report.tables import ReportOptions

HERE = Path(__file__).parent
MAX_BYTES = 100_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    runs = parser.parse_args().runs
    page = (runs / "report" / "report.html").resolve().as_uri()
    save("gallery-report.png", screenshot(page, 1200, 1460))
    with make_server([runs.parent], ReportOptions()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        save("gallery-live.png", screenshot(address, 1100, 620))
        save("gallery-live-phone.png", screenshot(address, 500, 860))
        server.shutdown()
    for name, cell in {"detection": "coco", "segmentation": "cityscapes-pspnet"}.items():
        picture = Image.open(next(runs.glob(f"{cell}/mls-seed*/predictions.png")))
        save(f"gallery-{name}.jpg", picture.resize((1000, 1000 * picture.height // picture.width)))
    picture = Image.open(next(runs.glob("scenes-objects-knn/mls-seed*/predictions.png")))
    save("gallery-classification.jpg", picture)
    shutil.copy(runs / "report" / "pretraining.svg", HERE / "gallery-pretraining.svg")


def screenshot(address: str, width: int, height: int) -> Image.Image:
    """Return the first pixels of a page, as Chromium shows it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "page.png")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        command = [browser, *options, f"--screenshot={target}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return Image.open(io.BytesIO(target.read_bytes())).convert("RGB")


def save(name: str, picture: Image.Image) -> None:
    """Write a picture below MAX_BYTES: PNG with 64 colours, or JPEG as good as possible."""
    path = HERE / name
    if path.suffix == ".png":
        picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    else:
        for quality in range(85, 40, -5):
            picture.convert("RGB").save(path, quality=quality, optimize=True)
            if path.stat().st_size <= MAX_BYTES:
                break
    assert path.stat().st_size <= MAX_BYTES


if __name__ == "__main__":
    main()
