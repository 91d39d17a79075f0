"""
Run an unchanged program with ``stable_baselines3`` as an alias of this package:

``python -m mlx_baselines3.as_stable_baselines3 (program.py | -m module) [arguments]``
"""

import importlib.abc
import importlib.util
import io
import os
import sys
import types


def _load(arguments: list[str]) -> tuple[types.CodeType, str, str | None]:
    """
    :param arguments: the command line after this module's name
    :return: the program's code, its file and its package
    :raises SystemExit: the program does not exist
    """
    if arguments in ([], ["-m"]):
        sys.exit("usage: python -m mlx_baselines3.as_stable_baselines3 (program.py | -m module) [arguments]")
    if arguments[0] != "-m":
        path = arguments[0]
        try:
            with io.open_code(os.path.abspath(path)) as file:
                return compile(file.read(), path, "exec"), path, None
        except OSError as error:
            sys.exit(f"{sys.executable}: cannot open {path}: {error.strerror}")
    name = arguments[1]
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    code = None
    if spec is not None and isinstance(spec.loader, importlib.abc.InspectLoader):
        code = spec.loader.get_code(spec.name)
    if spec is None or code is None:
        sys.exit(f"{sys.executable}: no runnable module named {name}")
    return code, str(spec.origin), spec.parent


def _run(arguments: list[str]) -> None:
    code, path, package = _load(arguments)
    if arguments[0] == "-m":
        sys.argv = [path, *arguments[2:]]
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    # In this module, not in one created by runpy: child processes of multiprocessing import the main program
    # again before the alias is active, but they do not re-import a package's `__main__`.
    main = vars(sys.modules["__main__"])
    kept = {name: main[name] for name in ("__name__", "__spec__", "__loader__", "__builtins__")}
    main.clear()
    main.update(kept, __file__=path, __package__=package, __doc__=None)
    exec(code, main)


if __name__ == "__main__":
    _run(sys.argv[1:])
