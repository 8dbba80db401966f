"""What mkdocs.yml adds to docs/: pages of the root, the notebook, the API, and all config keys."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Pages of the repository's root.
ROOT_PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
# Pages of the API: title and modules.
API = {
    "losses": (
        "Losses",
        ("pretrain.losses", "pretrain.losses_dense", "pretrain.losses_clustering"),
    ),
    "methods": (
        "Methods and views",
        ("pretrain.methods.base", "pretrain.batch", "pretrain.views.crops", "pretrain.geometry"),
    ),
    "checkpoint": (
        "Backbone files",
        (
            "mls_d2.checkpoint.backbone_file",
            "mls_d2.checkpoint.initial_weights",
            "mls_d2.convert.convert",
        ),
    ),
    "report": (
        "Reports and results",
        ("mls_d2.results.schema", "mls_d2.report.build", "mls_d2.report.statistics"),
    ),
    "config": (
        "Configs",
        (
            "mls_d2.config.loading",
            "mls_d2.config.options",
            "mls_d2.config.rules",
            "mls_d2.core.resources",
            "mls_d2.core.errors",
        ),
    ),
    "scenes": ("Scenes", ("mls_d2.scenes.generate", "mls_d2.scenes.marker")),
}


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    pages = {name: (ROOT / source).read_text() for name, source in ROOT_PAGES.items()}
    for name, (title, modules) in API.items():
        blocks = "\n\n".join(f"::: {module}" for module in modules)
        pages[f"api/{name}.md"] = f"# {title}\n\n{blocks}\n"
    pages["first-steps.md"] = notebook_page()
    pages["keys.md"] = keys_page()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links of the root's pages lead into the site, and write those to code as code."""
    if page.file.src_uri in ROOT_PAGES:
        for name, source in ROOT_PAGES.items():
            markdown = markdown.replace(f"]({source}", f"]({name}")
        markdown = markdown.replace("](docs/", "](").replace("first-steps.ipynb", "first-steps.md")
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?:\.\./)?([\w/]+\.(?:py|cff))\)", r"\1 (`\2`)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop Sphinx's roles, which editors show and Markdown does not know."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):<code>~?", "<code>", html)


def notebook_page() -> str:
    """Return the notebook as Markdown; it is committed without outputs."""
    cells = json.loads((ROOT / "docs/first-steps.ipynb").read_text())["cells"]
    texts = [
        f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
        for cell, text in ((cell, "".join(cell["source"])) for cell in cells)
    ]
    return "\n\n".join([*texts, "[This page as a notebook](first-steps.ipynb)"])


def keys_page() -> str:
    """Return the page of all config keys of this project."""
    import pretrain.methods  # noqa: F401 - registers the options
    from mls_d2.config.options import options_table

    lines = ["| key | default | meaning | allowed |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in key_rows()]
    return "\n".join(
        [
            "# Config keys",
            "",
            "The keys that this project adds to [Detectron2's](https://detectron2.readthedocs.io/"
            "en/latest/modules/config.html#yaml-config-references). `KEY VALUE` on a command line "
            "sets them, or YAML.",
            "",
            "## Pretraining, transfer and evaluation",
            "",
            *lines,
            "",
            "## Methods",
            "",
            options_table(),
            "",
        ]
    )


def key_rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield key, default, meaning and allowed values of the keys that no method declares."""
    from detectron2.config import get_cfg as get_detectron2_cfg

    from mls_d2.config import defaults
    from mls_d2.config.changes import flatten
    from mls_d2.config.options import OPTIONS
    from pretrain.checks import RULES

    source = Path(str(defaults.__file__)).read_text()
    comments = comments_of_keys(source)
    declared = {key.name for options in OPTIONS.values() for key in options.config_keys()}
    values = flatten(defaults.get_cfg())
    for key in sorted(values.keys() - flatten(get_detectron2_cfg()).keys() - declared):
        node = key if key in comments else key.rpartition(".")[0]
        allowed = RULES[key].expected if key in RULES else ""
        yield f"`{key}`", f"`{values[key]!r}`", comments[node], allowed


def comments_of_keys(source: str) -> dict[str, str]:
    """Return the comment before each key that ``source``, mls_d2/config/defaults.py, assigns.

    Keys that follow one another share a comment.
    """
    lines = source.splitlines()
    prefixes = {"cfg": ""}
    found: dict[str, str] = {}
    comment = ""
    for statement in statements(ast.parse(source)):
        above: list[str] = []
        number = statement.lineno - 2
        while lines[number].strip().startswith("#"):
            above.insert(0, lines[number].strip().lstrip("# "))
            number -= 1
        comment = " ".join(above) or comment
        keys = [key_of(target, prefixes) for target in [*statement.targets, statement.value]]
        key = next((key for key in keys if key is not None), None)
        for target in statement.targets:
            if isinstance(target, ast.Name) and key is not None:
                prefixes[target.id] = f"{key}."
        if key is not None and not isinstance(statement.value, ast.Attribute):
            found[key] = comment
    return found


def statements(tree: ast.Module) -> Iterator[ast.Assign]:
    """Yield the assignments of the functions that add keys, in the order of the file."""
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name.startswith("_add_"):
            yield from (item for item in function.body if isinstance(item, ast.Assign))


def key_of(node: ast.expr, prefixes: dict[str, str]) -> str | None:
    """Return the key that ``name.A.B`` stands for; None if ``name`` is no node of the config."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if parts and isinstance(node, ast.Name) and node.id in prefixes:
        return prefixes[node.id] + ".".join(parts)
    return None
