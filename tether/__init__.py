"""Tether: an offline-to-online world-model trainer for driving policies."""

import pathlib

_ROOT = pathlib.Path(__file__).parents[1]
if (_ROOT / "pyproject.toml").is_file():  # a checkout: the packages lie beside this folder, not in it
    __path__.append(str(_ROOT))
