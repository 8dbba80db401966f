#!/usr/bin/env python3
"""Install Detectron2 0.6 if there is none yet.

Detectron2 has no release on the package index. ``pb1-detectron2`` 0.6 there is the official v0.6
source under another name, without the C++ sources. This tool fetches that sdist, verifies its
checksum, applies CHANGES (one that no longer applies stops the tool), and packs the result as a
pure-Python wheel named ``detectron2``, version 0.6, which pip then installs.

An installed ``detectron2`` is kept, whatever its origin, except for a wheel made by an older
version of this tool, which is replaced.

Only the standard library and pip are used, because this runs before the project is installed.
"""

import argparse
import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SDIST_REQUIREMENT = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
WHEEL_NAME = "detectron2-0.6-py3-none-any.whl"
DIST_INFO = "detectron2-0.6.dist-info"
GENERATOR = "mls_d2-provide-detectron2"

# Folders of the sdist and their place in the wheel; everything else is left out.
PACKAGE_DIRS = {
    "LICENSE": "LICENSE",
    "detectron2/": "detectron2/",
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
}

# Upstream's without `future`, `pydot` (caffe2 only), `dataclasses` (Python 3.6) and `black==21.4b2`
# (only LazyConfig.to_py uses it); with torch, torchvision, numpy and setuptools, which v0.6 imports
# without requiring them. torch >= 2.3 has every name that CHANGES introduce.
REQUIREMENTS = """
    torch>=2.3 torchvision>=0.18 numpy setuptools Pillow>=7.1 matplotlib pycocotools>=2.0.2
    termcolor>=1.1 yacs>=0.1.8 tabulate cloudpickle tqdm>4.29.0 tensorboard fvcore<0.1.6,>=0.1.5
    iopath<0.1.10,>=0.1.7 omegaconf>=2.1 hydra-core>=1.1
"""

METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: 0.6
Summary: FAIR's platform for object detection and segmentation, v0.6 in pure Python
Home-page: https://github.com/facebookresearch/detectron2
Author: FAIR
License: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.10
{"".join(f"Requires-Dist: {requirement}{chr(10)}" for requirement in REQUIREMENTS.split())}
Detectron2 v0.6 without its C++ part (rotated boxes, deformable convolution on GPU, COCOeval_opt),
adapted to current Python and PyTorch. Repacked from the sdist pb1-detectron2 0.6.
"""


@dataclass(frozen=True)
class Change:
    """A replacement of text in files."""

    why: str
    old: str
    new: str
    where: Mapping[str, int]  # by file of the package, how often it must have ``old``


PILLOW = "Image.LINEAR, another name of BILINEAR, is gone from Pillow >= 10"
NUMPY_ALIAS = "the aliases of Python's types are gone from NumPy >= 1.24"
NUMPY_COPY = "copy=False means 'never copy' in NumPy 2 and fails if a copy is needed"
PKG_RESOURCES = "pkg_resources is gone from setuptools >= 82"
MESHGRID = "torch warns that meshgrid will need an explicit indexing; 'ij' is what it does today"
AMP = "torch.cuda.amp warns that it is deprecated in favour of torch.amp"
TRAIN_LOOP = "engine/train_loop.py"

CHANGES = (
    Change(PILLOW, "Image.LINEAR", "Image.BILINEAR", {"data/transforms/transform.py": 1}),
    Change(
        NUMPY_ALIAS, "np.bool)", "bool)",
        {
            "evaluation/pascal_voc_evaluation.py": 2, "structures/masks.py": 3,
            "utils/video_visualizer.py": 1, "utils/visualizer.py": 3,
        },
    ),
    Change(NUMPY_ALIAS, "dtype=np.int", "dtype=int", {"data/build.py": 2}),
    Change(NUMPY_ALIAS, "np.int)", "int)", {"evaluation/sem_seg_evaluation.py": 2}),
    Change(NUMPY_ALIAS, "np.float)", "float)", {"evaluation/sem_seg_evaluation.py": 5}),
    Change(NUMPY_ALIAS, "np.str)", "str)", {"data/datasets/pascal_voc.py": 1}),
    Change(NUMPY_COPY, "np.array(mask, copy=False)", "np.asarray(mask)", {"layers/mask_ops.py": 1}),
    Change(
        "random.sample refuses sets since Python 3.11; before, it made tuples of them",
        "self._rng.sample(self._fallback_candidates, k=1)[0]",
        "self._rng.sample(tuple(self._fallback_candidates), k=1)[0]",
        {"data/common.py": 1},
    ),
    Change(PKG_RESOURCES, "import pkg_resources\n", "", {"model_zoo/model_zoo.py": 1}),
    Change(
        PKG_RESOURCES,
        """pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )""",
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        {"model_zoo/model_zoo.py": 1},
    ),
    Change(
        "since torch 2.0 the schedulers' base class is LRScheduler; _LRScheduler is a subclass for "
        "old code, so that checkpoints silently lack the state of torch's own schedulers",
        "torch.optim.lr_scheduler._LRScheduler",
        "torch.optim.lr_scheduler.LRScheduler",
        {
            "engine/hooks.py": 2, "solver/build.py": 1, "solver/lr_scheduler.py": 4,
            "projects/deeplab/build_solver.py": 1, "projects/deeplab/lr_scheduler.py": 1,
        },
    ),
    Change(AMP, "from torch.cuda.amp import ", "from torch.amp import ", {TRAIN_LOOP: 2}),
    Change(AMP, "grad_scaler = GradScaler()", 'grad_scaler = GradScaler("cuda")', {TRAIN_LOOP: 1}),
    Change(AMP, "with autocast():", 'with autocast("cuda"):', {TRAIN_LOOP: 1}),
    Change(
        MESHGRID, "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")', {"modeling/anchor_generator.py": 1},
    ),
    Change(
        "without the C++ part, other code must import, and what needs it must raise a clear error",
        "from detectron2 import _C\n",
        """\
try:
    from detectron2 import _C
except ImportError:
    from detectron2.utils.missing_extension import _C
""",
        {
            "layers/deform_conv.py": 1, "layers/roi_align_rotated.py": 1,
            "layers/rotated_boxes.py": 1,
        },
    ),
    Change(
        "COCOeval_opt is COCOeval in C++; the official one in Python gives the same numbers",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        """
try:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
except ImportError:
    COCOeval_opt = COCOeval
""",
        {"evaluation/coco_evaluation.py": 1},
    ),
    Change(
        "caffe2 is no longer published; detectron2.utils.analysis needs the rest of the package",
        "from .api import *\n",
        """\
try:
    from caffe2.proto import caffe2_pb2 as _
except ImportError:
    pass
else:
    from .api import *
""",
        {"export/__init__.py": 1},
    ),
)  # fmt: skip

ADDED_FILES = {
    "utils/missing_extension.py": '''\
"""Replaces ``detectron2._C`` if Detectron2 was installed without its C++ part."""


class _MissingExtension:
    def __getattr__(self, name):
        raise ImportError(
            f"'detectron2._C.{name}' belongs to Detectron2's C++ part, which this pure-Python "
            "build leaves out. Build Detectron2 from source to use it."
        )


_C = _MissingExtension()
''',
}


class ProvideError(Exception):
    """An error that is shown to the user without a traceback."""


def report(message: str) -> None:
    """Print one line of progress."""
    print(f"detectron2: {message}", flush=True)


def digest() -> str:
    """Return a short digest of the wheel that this tool makes."""
    changes = [(change.old, change.new, change.where) for change in CHANGES]
    made_from = repr((SDIST_SHA256, PACKAGE_DIRS, changes, ADDED_FILES, METADATA))
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def verify_checksum(sdist: Path, expected: str = SDIST_SHA256) -> None:
    """Raise ProvideError unless ``sdist`` has the SHA-256 ``expected``."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != expected:
        raise ProvideError(
            f"{sdist.name} has the SHA-256 {found}, expected {expected}: it is damaged or another "
            "file. Delete it and try again."
        )


def read_sdist(sdist: Path) -> dict[str, bytes]:
    """Return the packages' files by their path in the wheel, and ``LICENSE``; in memory only."""
    files: dict[str, bytes] = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = member.name.partition("/")[2]
            for source, target in PACKAGE_DIRS.items():
                if member.isfile() and path.startswith(source):
                    content = archive.extractfile(member)
                    files[target + path.removeprefix(source)] = content.read() if content else b""
    if "LICENSE" not in files or "detectron2/__init__.py" not in files:
        raise ProvideError(f"{sdist.name} is not a Detectron2 sdist: no LICENSE or no package.")
    return files


def apply_changes(
    files: dict[str, bytes],
    changes: tuple[Change, ...] = CHANGES,
    added: dict[str, str] | None = None,
) -> None:
    """Apply ``changes`` and ``added`` files (default: ADDED_FILES) to ``files`` in place.

    Raises:
        ProvideError: a file is missing or exists already, or does not have the text to replace as
            often as stated.
    """
    for change in changes:
        for name, expected in change.where.items():
            path = f"detectron2/{name}"
            if path not in files:
                raise ProvideError(f"{path}: to be changed, but not in the sdist ({change.why}).")
            text = files[path].decode()
            found = text.count(change.old)
            if found != expected:
                raise ProvideError(
                    f"{path}: expected {change.old!r} {expected} time(s), "
                    f"found it {found} time(s) ({change.why})."
                )
            files[path] = text.replace(change.old, change.new).encode()
    for name, text in (ADDED_FILES if added is None else added).items():
        path = f"detectron2/{name}"
        if path in files:
            raise ProvideError(f"{path}: to be added, but in the sdist already.")
        files[path] = text.encode()


def write_wheel(files: dict[str, bytes], folder: Path) -> Path:
    """Write ``files`` (of :func:`read_sdist`) as a wheel into ``folder``, reproducibly."""
    contents = {path: data for path, data in files.items() if path != "LICENSE"}
    wheel = f"Wheel-Version: 1.0\nGenerator: {GENERATOR} {digest()}\n"
    contents |= {
        f"{DIST_INFO}/LICENSE": files["LICENSE"],
        f"{DIST_INFO}/METADATA": METADATA.encode(),
        f"{DIST_INFO}/WHEEL": f"{wheel}Root-Is-Purelib: true\nTag: py3-none-any\n".encode(),
        f"{DIST_INFO}/top_level.txt": b"detectron2\n",
    }
    record = io.StringIO()
    for path in sorted(contents):
        checksum = base64.urlsafe_b64encode(hashlib.sha256(contents[path]).digest())
        record.write(f"{path},sha256={checksum.decode().rstrip('=')},{len(contents[path])}\n")
    record.write(f"{DIST_INFO}/RECORD,,\n")
    contents[f"{DIST_INFO}/RECORD"] = record.getvalue().encode()
    target = folder / WHEEL_NAME
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(contents):
            entry = zipfile.ZipInfo(path)  # dated 1980-01-01, whenever it is written
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[path], zipfile.ZIP_DEFLATED)
    return target


def build_wheel(sdist: Path, folder: Path) -> Path:
    """Verify ``sdist``, apply the changes and return the wheel written into ``folder``."""
    verify_checksum(sdist)
    files = read_sdist(sdist)
    apply_changes(files)
    report(f"verified {sdist.name} and applied {len(CHANGES)} changes")
    return write_wheel(files, folder)


def run_pip(*arguments: str) -> None:
    """Run this interpreter's pip; its output is shown only if it fails."""
    command = [sys.executable, "-m", "pip", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        output = (done.stdout + done.stderr).rstrip()
        raise ProvideError(f"`pip {' '.join(arguments)}` failed:\n{output}")


def download_sdist(folder: Path) -> Path:
    """Fetch the sdist into ``folder``; pip checks its hash before it runs anything in it."""
    if importlib.util.find_spec("torch") is None:
        raise ProvideError("torch is not installed. Install it first, then run this again.")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST_REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n")
    # pip runs the sdist's setup.py for the metadata, and that imports torch: no isolated build.
    flags = ("--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes")
    run_pip("download", "-q", *flags, "-r", str(requirements), "-d", str(folder))
    return next(folder.glob("*.tar.gz"))


def find_installed() -> str | None:
    """Describe the Detectron2 that this interpreter imports; None if there is none to keep."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        return None
    for name in sorted(set(importlib.metadata.packages_distributions().get("detectron2", ()))):
        distribution = importlib.metadata.distribution(name)
        generator = distribution.read_text("WHEEL") or ""
        if GENERATOR in generator and digest() not in generator:
            return None
        return f"{name} {distribution.version} in {Path(str(spec.origin)).parent}"
    return f"the package in {Path(str(spec.origin)).parent}"


def check_import() -> None:
    """Raise ProvideError unless what is used of the installed Detectron2 imports."""
    code = "import detectron2.engine, detectron2.evaluation"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise ProvideError(
            f"the installed Detectron2 does not import:\n{done.stderr.rstrip()}\n"
            "Repair it, or remove it with `pip uninstall` and run this again to get a working one."
        )


def provide(sdist: Path | None, constraint: Path | None) -> None:
    """Install Detectron2 unless it is installed."""
    installed = find_installed()
    if installed:
        report(f"keeping {installed}")
        check_import()
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sdist is None:
            report(f"fetching {SDIST_REQUIREMENT} from the package index")
            sdist = download_sdist(folder)
        wheel = build_wheel(sdist, folder)
        options = ["-c", str(constraint)] if constraint else []
        # An older repack has the same version, so that pip would leave it in place.
        run_pip("uninstall", "-q", "-y", "detectron2")
        run_pip("install", "-q", *options, str(wheel))
    check_import()
    report(f"installed {wheel.name}")


def main() -> None:
    """Parse the command line and provide Detectron2, or only build its wheel."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sdist", type=Path, help="use this file instead of the package index")
    parser.add_argument("-c", "--constraint", type=Path, help="pip constraints for requirements")
    parser.add_argument("--build-only", type=Path, metavar="FOLDER", help="only write the wheel")
    args = parser.parse_args()
    try:
        if not args.build_only:
            provide(args.sdist, args.constraint)
            return
        with tempfile.TemporaryDirectory() as name:
            args.build_only.mkdir(parents=True, exist_ok=True)
            sdist = args.sdist or download_sdist(Path(name))
            report(f"wrote {build_wheel(sdist, args.build_only)}")
    except (ProvideError, OSError, tarfile.TarError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
