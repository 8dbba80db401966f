"""mls_d2: a Detectron2 extension from unlabelled scene images to a measured detector."""

import os
import sys
import warnings

__version__ = "0.2.0"

if sys.platform == "win32":
    # Locks, signals and limits of processes are those of POSIX.
    sys.stderr.write(
        "error: mls_d2 runs on Linux and macOS; on Windows use WSL, the Windows Subsystem for "
        "Linux [platform]\n"
    )
    sys.exit(2)

# Detectron2 scripts a few functions when it is imported, of which recent torch complains.
warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", module="torch.jit")

# Threads that spin while they wait make a step ten times slower on a busy machine.
# OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
