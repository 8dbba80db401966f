"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import functools
import mimetypes
from pathlib import Path
from urllib.parse import quote

import jinja2

from mls_d2.report.document import Picture, Report
from mls_d2.report.sections import LEGEND

MAX_EMBEDDED = 24 * 2**20
"""Bytes of pictures in a page; those beyond are linked, so that browsers can still open it."""


def render_html(report: Report, out: Path) -> str:
    """Return the whole page; its pictures are read from ``out``, the report's folder."""
    budget = _Budget(out)
    # First the curves, of which each stands for many numbers.
    pretraining = report.pretraining and budget.figure(report.pretraining)
    curves = [budget.figure(section.curves) for section in report.sections]
    sections = [
        {
            **vars(section),
            "curves": drawn,
            "pictures": [budget.figure(picture) for picture in section.pictures],
        }
        for section, drawn in zip(report.sections, curves, strict=True)
    ]
    template = _environment().get_template("report.html.j2")
    return template.render(report=report, sections=sections, pretraining=pretraining, legend=LEGEND)


class _Budget:
    """Embeds pictures as long as the page stays small enough."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._left = MAX_EMBEDDED

    def figure(self, picture: Picture) -> dict[str, str]:
        """Return what the template shows of a picture; ``uri`` is empty where it is too large."""
        content = (self._out / picture.file).read_bytes()
        uri = ""
        if len(content) <= self._left:
            self._left -= len(content)
            kind = mimetypes.guess_type(picture.file)[0]
            uri = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        return {"caption": picture.caption, "href": quote(picture.file), "uri": uri}


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mls_d2.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
