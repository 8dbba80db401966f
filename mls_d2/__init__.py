"""mls_d2: a Detectron2 extension from unlabelled scene images to a measured detector."""

import warnings

__version__ = "0.1.0"

# Detectron2 scripts a few functions when it is imported, of which recent torch complains.
warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", module="torch.jit")
