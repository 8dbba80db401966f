"""Tables in a document of one's own, replaced between markers so that they cannot go stale.

``<!-- report:begin NAME -->`` and ``<!-- report:end NAME -->`` are on lines of their own. NAME is
the kind of table (``results``, ``differences``, ``cost``, ``provenance``), for one task
``TASK/KIND``.
"""

from __future__ import annotations

import re
from pathlib import Path

from mls_d2.core.errors import UserError, nearest
from mls_d2.core.files import atomic_write
from mls_d2.report.contents import TABLES, Report
from mls_d2.report.render_text import render_markdown_tables

_MARKER = re.compile(r"^[ \t]*<!--\s*report:(begin|end)(?:\s+(.*?))?\s*-->[ \t]*$", re.MULTILINE)


def update_document(path: Path, report: Report) -> list[str]:
    """Replace the tables in a Markdown file by those of ``report``.

    The file is written only if something changes, and only if every marker is valid.

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
        raise UserError(f"cannot read '{path}': {reason}", code="missing-file") from None
    markers = list(_MARKER.finditer(text))
    if not markers:
        raise UserError(
            f"{path} has no table to update: put <!-- report:begin results --> and "
            "<!-- report:end results --> on lines of their own around its place",
            code="missing-data",
        )
    names: list[str] = []
    pieces: list[str] = []
    position = 0
    for number, marker in enumerate(markers):
        kind, name = marker.group(1), marker.group(2) or ""
        if kind != ("begin", "end")[number % 2] or (kind == "end" and name != names[-1]):
            raise _unpaired(path, text, marker)
        if kind == "begin":
            names.append(name)
            pieces += [text[position : marker.end()], f"\n{_content(path, name, report)}\n"]
        position = marker.start()
    if len(markers) % 2:
        raise _unpaired(path, text, markers[-1])
    changed = "".join([*pieces, text[position:]])
    if changed != text:
        with atomic_write(str(path)) as file:
            file.write(changed.encode("utf-8"))
    return names


def _unpaired(path: Path, text: str, marker: re.Match[str]) -> UserError:
    line = text.count("\n", 0, marker.start()) + 1
    return UserError(
        f"{path}, line {line}: '{marker.group().strip()}' is not part of a pair; each "
        "report:begin NAME needs a report:end of the same NAME after it",
        code="bad-value",
    )


def _content(path: Path, name: str, report: Report) -> str:
    task, _, kind = name.rpartition("/")
    tasks = sorted({group.task for group in report.groups})
    if kind not in TABLES:
        hint = nearest(kind, TABLES)
        raise UserError(f"{path}: no kind of table is called '{kind}'; {hint}", code="unknown-name")
    if task and task not in tasks:
        hint = nearest(task, tasks)
        message = f"{path}: there are no results of task '{task}'; {hint}"
        raise UserError(message, code="unknown-name")
    sections = [item for item in report.sections if task in ("", item.group.task)]
    return render_markdown_tables(sections, kind)
