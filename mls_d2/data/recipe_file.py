"""Files of what was computed once for a dataset, each with the recipe that decides its content.

Such a file is, little-endian and without gaps: a magic line, the length of the header (uint32), the
header (JSON), and the content.
"""

from __future__ import annotations

import struct
from typing import IO, Annotated, Any, ClassVar

import msgspec

from mls_d2.core.errors import UserError
from mls_d2.core.files import JSON_FAULTS

Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
_LENGTH = struct.Struct("<I")


class RecipeFile:
    """One file, whose content is mapped into memory.

    Args:
        path: of a file that was written with :func:`header_bytes`.

    Raises:
        UserError: no such file, a damaged one, or one of another kind.
    """

    kind: ClassVar[str]  # in messages: "proposals"
    magic: ClassVar[bytes]
    header: ClassVar[type[msgspec.Struct]]  # it has the field ``recipe``
    recipe: msgspec.Struct

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                header = self._read_header(file)
                self.recipe = header.recipe
                self.open_content(file, header)
        except OSError as error:
            message = f"{self.kind} '{path}' cannot be read: {error.strerror}"
            raise UserError(message, code="missing-file") from None

    def __reduce__(self) -> tuple[type[RecipeFile], tuple[str]]:
        # A memory map would be copied into every worker.
        return type(self), (self.path,)

    def open_content(self, file: IO[bytes], header: Any) -> None:
        """Map the content into memory; ``file`` stands behind the header."""
        raise NotImplementedError

    def check_recipe(self, recipe: msgspec.Struct) -> None:
        """Make sure that the file was made with ``recipe``.

        Raises:
            UserError: it was not; names what differs.
        """
        changed = differences(self.recipe, recipe)
        if changed:
            raise self.changed(f"'{self.path}' holds other {self.kind} than are needed ({changed})")

    def changed(self, what: str) -> UserError:
        """Return the error that the file does not fit the data or the options."""
        advice = f"so that it is made again, or choose another PRETRAIN.{self.kind.upper()}"
        return UserError(f"{what}; remove that file, {advice}", code="changed-data")

    def damaged(self, fault: str) -> UserError:
        """Return the error that the file is damaged."""
        return UserError(
            f"{self.kind} '{self.path}' are damaged: {fault}. Copy the file again, or remove it, "
            "so that it is made again",
            code="damaged-file",
        )

    def _read_header(self, file: IO[bytes]) -> Any:
        if file.read(len(self.magic)) != self.magic:
            advice = f"choose another PRETRAIN.{self.kind.upper()}"
            message = f"'{self.path}' is no file of {self.kind}; {advice}"
            raise UserError(message, code="foreign-file")
        try:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            return msgspec.json.decode(file.read(length), type=self.header)
        except (struct.error, OverflowError, *JSON_FAULTS) as error:
            raise self.damaged(str(error)) from None


def header_bytes(kind: type[RecipeFile], header: msgspec.Struct) -> bytes:
    """Return the beginning of a file of some kind, up to its content."""
    text = msgspec.json.encode(header)
    return kind.magic + _LENGTH.pack(len(text)) + text


def check_begun(partial: str, begun: bytes, recipe: msgspec.Struct) -> None:
    """Make sure that an unfinished file or folder was begun with ``recipe``.

    Args:
        partial: its path.
        begun: JSON of the recipe that it was begun with.
        recipe: of now.

    Raises:
        UserError: it was begun with another one, or is damaged.
    """
    try:
        found = msgspec.json.decode(begun, type=type(recipe))
    except JSON_FAULTS as error:
        message = f"'{partial}' is damaged: {error}. Remove it; it is made again"
        raise UserError(message, code="damaged-file") from None
    changed = differences(found, recipe)
    if changed:
        raise UserError(
            f"'{partial}' was begun for other images, weights or options ({changed}); finish it "
            "with those, or remove it",
            code="changed-run",
        )


def differences(there: msgspec.Struct, wanted: msgspec.Struct) -> str:
    """Return the fields in which two recipes of one kind differ, with their values, or ""."""
    old, new = msgspec.structs.asdict(there), msgspec.structs.asdict(wanted)
    changed = [name for name in old if old[name] != new[name]]
    return "; ".join(f"{name}: {old[name]} there, {new[name]} now" for name in changed)
