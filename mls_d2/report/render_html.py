"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import functools
import mimetypes
from pathlib import Path
from urllib.parse import quote

import jinja2

from mls_d2.report.contents import LEGEND, Report, ReportPicture

MAX_EMBEDDED = 24 * 2**20
"""Bytes of pictures in a page; more are linked, so that browsers can still open it."""


def render_html(report: Report, out: Path) -> str:
    """Return the whole page; its pictures are read from ``out``, the report's folder."""
    left = MAX_EMBEDDED

    def figure(picture: ReportPicture) -> dict[str, str]:
        """Return what the template shows of a picture; ``uri`` is empty if it is too large."""
        nonlocal left
        content = (out / picture.file).read_bytes()
        uri = ""
        if len(content) <= left:
            left -= len(content)
            kind = mimetypes.guess_type(picture.file)[0]
            uri = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        return {"caption": picture.caption, "href": quote(picture.file), "uri": uri}

    # First the curves, of which each stands for many numbers.
    pretraining = report.pretraining and figure(report.pretraining)
    curves = [figure(section.curves) for section in report.sections]
    pictures = [list(map(figure, section.pictures)) for section in report.sections]
    template = _environment().get_template("report.html.j2")
    return template.render(
        report=report,
        sections=zip(report.sections, curves, pictures, strict=True),
        pretraining=pretraining,
        legend=LEGEND,
    )


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mls_d2.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
