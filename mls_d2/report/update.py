"""Tables in a document of one's own, replaced between markers so that they cannot go stale.

``<!-- report:begin NAME -->`` and ``<!-- report:end NAME -->`` stand on lines of their own. NAME is
the kind of table (``results``, ``differences``, ``cost``, ``provenance``), for one task
``TASK/KIND``.
"""

from __future__ import annotations

import re
from pathlib import Path

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import atomic_write
from mls_d2.report.document import Report
from mls_d2.report.markdown import render_part
from mls_d2.report.sections import TABLES

_MARKER = re.compile(r"^[ \t]*<!--\s*report:(begin|end)(?:\s+(.*?))?\s*-->[ \t]*$", re.MULTILINE)


def update_document(path: Path, report: Report) -> list[str]:
    """Replace the tables in a Markdown file by those of ``report``.

    The file is written only where something changes, and only when every marker is understood.

    Returns:
        The names of the tables, in the order of the file.

    Raises:
        UserError: the file cannot be read or written, has no marker, an unknown name, or markers
            that do not pair.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read '{path}': {reason}") from None
    names = []
    pieces = []
    position = 0
    for name, start, end in _blocks(path, text):
        names.append(name)
        pieces += [text[position:start], f"\n{_content(path, name, report)}\n"]
        position = end
    changed = "".join([*pieces, text[position:]])
    if changed != text:
        with atomic_write(str(path)) as file:
            file.write(changed.encode("utf-8"))
    return names


def _blocks(path: Path, text: str) -> list[tuple[str, int, int]]:
    """Return name, start and end of what stands between each pair of markers."""
    blocks: list[tuple[str, int, int]] = []
    opened: re.Match[str] | None = None
    for marker in _MARKER.finditer(text):
        line = text.count("\n", 0, marker.start()) + 1
        kind, name = marker.group(1), marker.group(2) or ""
        if (kind == "begin") != (opened is None):
            missing = "its report:end" if opened else "a report:begin before it"
            raise UserError(f"{path}, line {line}: '{marker.group().strip()}' lacks {missing}")
        if opened is None:
            opened = marker
            continue
        if name != (opened.group(2) or ""):
            raise UserError(
                f"{path}, line {line}: report:end '{name}' closes report:begin "
                f"'{opened.group(2) or ''}'; they must have the same name"
            )
        blocks.append((name, opened.end(), marker.start()))
        opened = None
    if opened is not None:
        raise UserError(f"{path}: '{opened.group().strip()}' lacks its report:end")
    if not blocks:
        raise UserError(
            f"{path} has no table to update: put <!-- report:begin results --> and "
            "<!-- report:end results --> where it is to stand, each on a line of its own"
        )
    return blocks


def _content(path: Path, name: str, report: Report) -> str:
    task, _, kind = name.rpartition("/")
    tasks = sorted({group.task for group in report.groups})
    if kind not in TABLES:
        raise UserError(f"{path}: no kind of table is called '{kind}'; {nearest(kind, TABLES)}")
    if task and task not in tasks:
        raise UserError(f"{path}: there are no results of task '{task}'; {nearest(task, tasks)}")
    sections = [item for item in report.sections if task in ("", item.facts.group.task)]
    return render_part(sections, kind)
