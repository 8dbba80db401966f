"""mls_d2: a Detectron2 extension from unlabelled scene images to a measured detector."""

import importlib.util
import warnings

__version__ = "0.1.0"

if importlib.util.find_spec("detectron2") is None:
    raise ImportError(
        "mls_d2 needs Detectron2, which has no release on the package index: run `make setup`, or "
        "`python tools/provide_detectron2.py`, or install it as its project describes"
    )

# Detectron2 scripts a few functions when it is imported, of which recent torch complains.
warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", module="torch.jit")
