"""The pages' Python works as far as a test can tell without their data: what they import exists."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def imports(page: Path) -> list[tuple[str, str]]:
    """(module, name) of everything that the page's Python blocks import from heredity."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    found = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    return [
        (node.module, alias.name)
        for node in found
        for alias in node.names
        if node.module and node.module.split(".")[0] == "heredity"
    ]


def test_the_pages_have_python_to_look_at() -> None:
    assert sum(len(imports(page)) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_imports_exists(page: Path) -> None:
    for module, name in imports(page):
        if not hasattr(import_module(module), name):
            import_module(f"{module}.{name}")
