"""Faults of annotation files, collected so that one message names the first and counts the rest."""

from collections import Counter

from mls_d2.core.errors import UserError


class Faults:
    """Faults by kind, in the order in which the kinds were found.

    Args:
        path: the file, put before each message; "" if the messages name it.
    """

    def __init__(self, path: str = "") -> None:
        self._prefix = f"'{path}': " if path else ""
        self._first: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, message: str) -> None:
        """Count a fault; the message of the first of its kind is kept."""
        self._first.setdefault(kind, message)
        self._counts[kind] += 1

    def raise_any(self) -> None:
        """Do nothing if there are no faults.

        Raises:
            UserError: the first fault, how many more there are of its kind, and of other kinds.
        """
        if not self._first:
            return
        kind, message = next(iter(self._first.items()))
        more, others = self._counts[kind] - 1, self._counts.total() - self._counts[kind]
        message = self._prefix + message
        message += f"; {more} more like it" if more else ""
        message += f"; {others} other faults" if others else ""
        raise UserError(message, code="damaged-annotation")
