"""
Run the Python blocks of a Markdown page in their order: ``python run_page.py PAGE`` from an empty folder.

The page is one program: its blocks share one namespace, ``__main__``. A statement warns if and only if one of
its lines has a comment that starts with ``# warns``: readers meet no warning that the page does not announce.
"""

import ast
import linecache
import pathlib
import re
import sys
import types
import warnings
from collections.abc import Iterator

BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def python_blocks(page: str) -> Iterator[tuple[int, str]]:
    """Each block, after the number of its first line in the page."""
    for match in BLOCK.finditer(page):
        yield page.count("\n", 0, match.start(1)) + 1, match[1]


def run(statement: ast.stmt, source: str, path: str, names: dict[str, object]) -> None:
    """Run one statement of a block; a missing or an unannounced warning is an error."""
    announced = re.search(r"# warns\b", source) is not None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        exec(compile(ast.Module([statement], []), path, "exec"), names)
    if announced != bool(seen):
        said = [f"{warning.category.__name__}: {warning.message}" for warning in seen]
        raise AssertionError(
            f"{path}, line {statement.lineno}: {'no warning' if announced else said}\n{source}"
        )


def main(path: str) -> None:
    page = pathlib.Path(path).read_text()
    program = types.ModuleType("__main__")
    # Classes of the page are found by their import path, as those of a user's program are.
    sys.modules["__main__"] = program
    # Tracebacks, and `inspect`, show the lines of the page.
    linecache.cache[path] = (len(page), None, page.splitlines(keepends=True), path)
    lines = page.splitlines()
    for first, code in python_blocks(page):
        for statement in ast.increment_lineno(ast.parse(code, path), first - 1).body:
            source = "\n".join(lines[statement.lineno - 1 : statement.end_lineno])
            run(statement, source, path, vars(program))


if __name__ == "__main__":
    main(sys.argv[1])
