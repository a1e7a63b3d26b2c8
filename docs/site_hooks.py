"""What `mkdocs.yml` cannot say: pages outside of `docs/`, links to them, and lists as GitHub reads them.

The pages are written for the repository, with links that hold there. A link to a file that has a page in the
site leads to that page; one to any other file of the repository keeps its text and loses its target; one to
nothing at all is left as it is, so that the strict build fails.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
HOME = "README.md"
PREFIX = "repository"  # the folder of the site for what lies outside docs/
OUTSIDE = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "charts/taper/*.md",
    "images/*.md",
    "manifests/*.md",
]
TABLES = ["benchmarks/results/*/*"]
_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^]]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)]*)?\)")
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Read lists as GitHub does."""
    config.markdown_extensions.append(_ListsAfterText())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and tables that lie outside `docs/`."""
    files.append(File.generated(config, HOME, abs_src_path=str(ROOT / HOME)))
    for pattern in OUTSIDE + TABLES:
        for place in sorted(ROOT.glob(pattern)):
            name = f"{PREFIX}/{place.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that hold in the repository into such that hold in the site."""
    folder = posixpath.dirname(_place(page.file.src_uri))

    def in_site(link: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(folder, link["target"]))
        name = _name(place, files)
        if name is not None:
            target = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
            return f"{link['mark']}[{link['text']}]({target}{link['anchor'] or ''})"
        exists = (ROOT / place).exists() and not place.startswith("..")
        return link["text"] if exists else link[0]

    return _LINK.sub(in_site, markdown)


def _place(name: str) -> str:
    """Where in the repository the page of that name in the site lies."""
    if name == HOME:
        return HOME
    return name.removeprefix(f"{PREFIX}/") if name.startswith(f"{PREFIX}/") else f"docs/{name}"


def _name(place: str, files: Files) -> str | None:
    """The name in the site of a file of the repository; a folder's is that of its README.md."""
    names = [place] if place == HOME else []
    names += [place.removeprefix("docs/")] if place.startswith("docs/") else [f"{PREFIX}/{place}"]
    names += [f"{name}/README.md" for name in names]
    return next((name for name in names if files.get_file_from_path(name) is not None), None)


class _ListsAfterText(Extension):
    """A list may follow a line of text directly, in pages and in docstrings."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802, the name that markdown calls
        md.preprocessors.register(_BlankLineBeforeLists(md), "lists-after-text", 20)


class _BlankLineBeforeLists(Preprocessor):
    """Runs after fenced code has been set aside (priority 25)."""

    def run(self, lines: list[str]) -> list[str]:
        spaced: list[str] = []
        for line in lines:
            if spaced and _ITEM.match(line) and _begins_list(spaced[-1]):
                spaced.append("")
            spaced.append(line)
        return spaced


def _begins_list(before: str) -> bool:
    return bool(before.strip()) and not _ITEM.match(before) and not before.startswith((" ", "\t"))
