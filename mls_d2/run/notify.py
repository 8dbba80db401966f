"""A command of the user's that is run when a run has finished."""

import logging
import os
import subprocess

logger = logging.getLogger(__name__)

# A variable and not a config key: a config is published with its backbone, an address or a token
# in the command must not be.
COMMAND = "MLS_D2_NOTIFY"
_TIMEOUT_S = 60


def notify(**facts: str) -> None:
    """Run the shell command ``MLS_D2_NOTIFY``, if it is set; call it in the main process.

    A failure is logged as a warning and never raised.

    Args:
        facts: what the command gets, each as the environment variable ``RUN_<NAME>``: of finished
            runs ``RUN_TASK``, ``RUN_METHOD``, ``RUN_FOLDER``, ``RUN_FILE`` and ``RUN_RESULT``.
    """
    command = os.environ.get(COMMAND)
    if not command:
        return
    variables = {f"RUN_{name.upper()}": value for name, value in facts.items()}
    try:
        subprocess.run(
            command,
            shell=True,
            check=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | variables,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        logger.warning("%s has not ended within %d s", COMMAND, _TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        logger.warning("%s ended with code %d", COMMAND, error.returncode)
    except (OSError, ValueError) as error:
        logger.warning("%s could not be run: %s", COMMAND, error)
