"""Directives whose content is read from the code: ``modules``, ``names``, ``help`` and ``schema``."""

from __future__ import annotations

import html
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from functools import cache
from inspect import isclass, ismodule
from pathlib import Path

from docutils import nodes
from pydantic import TypeAdapter
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

import nelbo

EQUATIONS = (Path(__file__).parents[1] / "equations.md").read_text(encoding="utf-8")
"""A private module is in the reference if this page names it."""
WIDTH = "88"
SCHEMAS = {
    "run": "nelbo.config.files.RunConfig",
    "score": "nelbo.report.results.Score",
    "classification": "nelbo.report.results.Classification",
    "threshold": "nelbo.report.results.Threshold",
    "evaluation": "nelbo.report.results.Evaluation",
    "comparison": "nelbo.report.results.Comparison",
    "compression": "nelbo.report.compressed.Compression",
}
"""The JSON schemas, and the classes that they are made from."""


def rst(text: str) -> str:
    """reStructuredText in a page of Markdown."""
    return f"````{{eval-rst}}\n{text}\n````\n"


def module(name: str) -> str:
    """A module's docstring and members; private ones only if the page of equations names them."""
    options = ":members:\n   :ignore-module-all:\n   :show-inheritance:"
    private = re.findall(rf"`{re.escape(name)}\.(?:\w+\.)?(_\w+)`", EQUATIONS)
    if private:
        options += f"\n   :private-members: {', '.join(private)}"
    return rst(f".. automodule:: {name}\n   {options}\n")


class Modules(SphinxDirective):
    """Every module of a package, or the module, with all its public members."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """One section for each module."""
        package = importlib.import_module(self.arguments[0])
        found = [f"{package.__name__}.{inner.name}" for inner in pkgutil.iter_modules(getattr(package, "__path__", []))]
        names = [package.__name__] * bool(package.__doc__)
        names += [name for name in found if "._" not in name or f"`{name}." in EQUATIONS]
        text = "".join(f"## {name}\n\n{module(name)}" for name in names)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Names(SphinxDirective):
    """Every public name of ``nelbo``."""

    def run(self) -> list[nodes.Node]:
        """A class with its members, a function, or a link to a module."""
        text = ""
        for name in nelbo.__all__:
            found = getattr(nelbo, name)
            if ismodule(found):
                text += f"`nelbo.{name}` is the module {{py:mod}}`{found.__name__}`.\n\n"
            elif isclass(found):
                text += rst(
                    f".. autoclass:: nelbo.{name}\n   :members:\n   :inherited-members: Module, BaseModel, Exception\n"
                )
            else:
                text += rst(f".. autofunction:: nelbo.{name}\n")
        return self.parse_text_to_nodes(text)


@cache
def help_of(words: str) -> str:
    """What ``nelbo WORDS --help`` prints."""
    command = [sys.executable, "-m", "nelbo", *words.split(), "--help"]
    environment = {**os.environ, "COLUMNS": WIDTH, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


class Help(SphinxDirective):
    """The help of one command."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """A literal block."""
        text = help_of(" ".join(self.arguments))
        block = nodes.literal_block(text, text, language="text")
        return [block]


def schema_of(name: str) -> dict[str, object]:
    """The JSON schema of a file, with its identifier and the version of nelbo."""
    home, _, cls = SCHEMAS[name].rpartition(".")
    kind = getattr(importlib.import_module(home), cls)
    schema = TypeAdapter(kind).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:nelbo:schema:{name}:{nelbo.__version__}",
        **schema,
    }


def type_of(field: dict[str, object]) -> str:
    """The type of a field of a schema, in a word or two."""
    if "anyOf" in field:
        return " or ".join(type_of(each) for each in field["anyOf"])  # type: ignore[attr-defined]
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "const" in field:
        return json.dumps(field["const"])
    return str(field.get("type", "any"))


class Schema(SphinxDirective):
    """The fields of a JSON schema, and a link to the schema."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A table of fields."""
        name = self.arguments[0]
        schema = schema_of(name)
        required = set(schema.get("required", []))  # type: ignore[call-overload]
        rows = []
        for field, about in schema["properties"].items():  # type: ignore[attr-defined]
            cells = [f"<code>{field}</code>", html.escape(type_of(about)), "yes" if field in required else ""]
            cells.append(html.escape(about.get("description", "")))
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        head = "<thead><tr><th>field</th><th>type</th><th>always there</th><th>content</th></tr></thead>"
        table = f'<div class="table-wrapper"><table class="docutils">{head}<tbody>{"".join(rows)}</tbody></table></div>'
        address = "../" * self.env.docname.count("/") + f"schemas/{name}.json"
        link = f'<p>Version {nelbo.__version__}: <a href="{address}">{name}.json</a>, JSON Schema 2020-12.</p>'
        return [nodes.raw("", link + table, format="html")]


def write_schemas(app: Sphinx, error: Exception | None) -> None:
    """Write the schemas beside the pages."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir) / "schemas"
        folder.mkdir(exist_ok=True)
        for name in SCHEMAS:
            (folder / f"{name}.json").write_text(json.dumps(schema_of(name), indent=1) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the directives."""
    app.add_directive("modules", Modules)
    app.add_directive("names", Names)
    app.add_directive("help", Help)
    app.add_directive("schema", Schema)
    app.connect("build-finished", write_schemas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
