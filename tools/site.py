"""What the site is made of beside docs/: pages from the checkout's root, the reference, and formulas. mkdocs calls it.

Everything is read from files; nothing of the package is imported but the list of public names.
"""

import ast
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import selfsup
from tools.checkout import ROOT

# Documents that lie beside docs/, by the names of their pages.
BESIDE = {"readme.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
NOTEBOOK = "first_look"
# Pages of the reference: title, and the modules, packages or single names of selfsup that stand on them.
REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "runs": ("Runs", ("pretraining", "training.settings", "config.recipe_files.load_recipe")),
    "images": (
        "Images",
        ("data.settings", "data.sources.open_source", "data.base", "data.datasets", "data.sampling", "batch"),
    ),
    "augment": ("Augmentation", ("augment.presets", "augment.parameters", "augment.views", "augment.size")),
    "models": ("Encoders and heads", ("models.encoder", "models.resnet", "models.timm", "models.heads", "models.norm")),
    "methods": ("Methods", ("methods",)),
    "losses": ("Losses", ("losses",)),
    "memory": ("Memories", ("memory",)),
    "optim": ("Optimizers and schedules", ("optim",)),
    "evaluation": ("Evaluation", ("evaluation",)),
    "search": ("Search", ("search.index", "search.duplicates", "search.groups", "search.diverse")),
    "processes": ("Processes and random numbers", ("distributed", "randomness")),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Patterns of the navigation become the pages that there are; a section without any is left out."""
    found = [path.relative_to(config.docs_dir).as_posix() for path in sorted(Path(config.docs_dir).rglob("*.md"))]
    config.nav = expanded(config.nav or [], [*found, *generated()])
    return config


def expanded(nav: list[Any], pages: list[str]) -> list[Any]:
    """The navigation with `folder/*.md` replaced by the pages of the folder, its index first."""
    entries: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            title, inner = next(iter(entry.items()))
            within = expanded(inner, pages) if isinstance(inner, list) else inner
            entries += [{title: within}] if within else []
        elif entry.endswith("*.md"):
            folder = entry.removesuffix("*.md")
            matching = [page for page in pages if page.startswith(folder) and "/" not in page.removeprefix(folder)]
            entries += sorted(matching, key=lambda page: (not page.endswith("/index.md"), page))
        else:
            entries.append(entry)
    return entries


def named_pages(nav: list[Any]) -> list[str]:
    """Every page that a navigation leads to."""
    found: list[str] = []
    for entry in nav:
        inner = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += named_pages(inner) if isinstance(inner, list) else [inner]
    return found


def generated() -> dict[str, str]:
    """Path -> content of the pages that do not lie in docs/."""
    pages = {page: (ROOT / document).read_text() for page, document in BESIDE.items()}
    pages = {page: _for_site(text, at_root=True) for page, text in pages.items()}
    if (notebook := ROOT / "docs" / f"{NOTEBOOK}.ipynb").is_file():
        pages[f"{NOTEBOOK}.md"] = notebook_page(notebook)
    groups = reference()
    pages["reference/index.md"] = _public_names(groups)
    for name, (title, wanted) in groups.items():
        entries = [f"::: selfsup.{module}\n" for part in wanted for module in modules(part)]
        pages[f"reference/{name}.md"] = "\n".join([f"# {title}\n", *entries])
    return pages


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to documents beside docs/ lead to their pages; what has no page is no link."""
    return _for_site(markdown, at_root=False, up="../" * page.file.src_uri.count("/"))


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas become MathML, which browsers draw without a script."""
    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', _formula, html, flags=re.DOTALL)


def modules(part: str) -> list[str]:
    """A module or name as it stands, of a package its modules."""
    folder = ROOT / "selfsup" / part.replace(".", "/")
    inside = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__") if folder.is_dir() else []
    return [f"{part}.{name}" for name in inside] or [part]


def notebook_page(notebook: Path) -> str:
    """A notebook as a page: its words, and its code."""
    cells = json.loads(notebook.read_text())["cells"]
    told = [
        source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for cell in cells
        if (source := "".join(cell["source"]).strip())
    ]
    return "\n\n".join([*told, f"The notebook itself: [{notebook.name}]({notebook.name}).\n"])


def _for_site(text: str, at_root: bool, up: str = "") -> str:
    """A document whose links hold within the site.

    Args:
        text: Markdown.
        at_root: it lies in the checkout's root, else in docs/.
        up: from the folder of the page to docs/.
    """
    pages = {document: page for page, document in BESIDE.items()}

    def moved(match: re.Match[str]) -> str:
        told, target, heading = match[1], match[2], match[3] or ""
        if at_root:
            inside = target.removeprefix("docs/") if target.startswith("docs/") else pages.get(target)
        else:
            outside = target.removeprefix(f"{up}../") if target.startswith(f"{up}../") else None
            if outside is None:
                return match[0]
            inside = f"{up}{pages[outside]}" if outside in pages else None
        if inside and at_root and inside.endswith((".json", ".jsonl")):
            return f"[{told}]({inside})"
        if inside and inside.endswith("/"):
            inside = None
        return f"[{told}]({inside}{heading})" if inside else told

    return re.sub(r"\[([^\]]*)\]\(((?!https?:)[^)#\s]+)(#[^)\s]*)?\)", moved, text)


def reference() -> dict[str, tuple[str, tuple[str, ...]]]:
    """REFERENCE, and a page for the public names that have no place there."""
    placed = {module for _, wanted in REFERENCE.values() for part in wanted for module in modules(part)}
    written = [(defined(module, name)[0], name) for name, module in sorted(selfsup._NAMES.items())]
    rest = tuple(f"{module}.{name}" for module, name in written if not {module, f"{module}.{name}"} & placed)
    return REFERENCE | ({"more": ("More", rest)} if rest else {})


def _public_names(groups: dict[str, tuple[str, tuple[str, ...]]]) -> str:
    """The page of `import selfsup`: every name, what it is, and where it is explained."""
    places = {module: page for page, (_, wanted) in groups.items() for part in wanted for module in modules(part)}
    rows = []
    for name in sorted(selfsup._NAMES, key=str.lower):
        module, told = defined(selfsup._NAMES[name], name)
        page = places.get(module) or places[f"{module}.{name}"]
        rows.append(f"| [`{name}`]({page}.md#selfsup.{module}.{name}) | {told} |")
    told = "What `import selfsup` offers, such as `selfsup.load`. Nothing is imported before it is used."
    head = f"# Reference\n\n{told}\n\n| name | |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def defined(module: str, name: str) -> tuple[str, str]:
    """The module that a public name is written in, and the first sentence of its docstring, both from the files."""
    for node in ast.parse((ROOT / "selfsup" / f"{module.replace('.', '/')}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            first = (ast.get_docstring(node) or "").partition("\n\n")[0]
            return module, first.replace("\n", " ").replace("|", "\\|")
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return defined((node.module or "").removeprefix("selfsup."), name)
    raise ValueError(f"selfsup.{module} holds no {name}")


def _formula(found: re.Match[str]) -> str:
    block = found[1] == "div"
    latex = unescape(found[2]).strip().removeprefix("\\[" if block else "\\(").removesuffix("\\]" if block else "\\)")
    return str(convert(latex, display="block" if block else "inline"))
