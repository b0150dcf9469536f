"""Finds the installed SUMO (packages eclipse-sumo and libsumo); errors name what is missing."""

import os
import subprocess
from pathlib import Path
from types import ModuleType

SUMO_VERSION = "1.28.0"
SYSTEM_LIBRARIES = "libGL, libX11, libXext, libXrender and libatomic"
INSTALL = 'pip install -e ".[sumo]"'


class SumoError(RuntimeError):
    """SUMO is missing, or one of its programs failed."""


def sumo_home() -> Path:
    """Directory of the installed SUMO.

    Raises: SumoError where eclipse-sumo is not installed.
    """
    try:
        import sumo
    except ImportError as error:
        raise SumoError(f"expected SUMO {SUMO_VERSION}, found none: {INSTALL}") from error
    return Path(sumo.SUMO_HOME)


def import_libsumo() -> ModuleType:
    """SUMO as a library in this process; it holds one simulation: a second start replaces the first.

    Raises: SumoError where libsumo, or a system library that it links to, is missing, or its version differs.
    """
    os.environ.setdefault("SUMO_HOME", str(sumo_home()))
    try:
        import libsumo
    except ImportError as error:
        message = (
            f"libsumo cannot be imported ({error}). It needs {INSTALL} and the system libraries {SYSTEM_LIBRARIES}"
        )
        raise SumoError(message) from error
    version = libsumo.simulation.getVersion()[1]
    if SUMO_VERSION not in version:
        raise SumoError(f"scenes are reproducible with SUMO {SUMO_VERSION} only, found {version}: {INSTALL}")
    return libsumo


def run_program(name: str, arguments: list[str]) -> None:
    """Runs netgenerate or netconvert.

    Raises: SumoError with the end of the program's output where it fails.
    """
    home = sumo_home()
    command = [str(home / "bin" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SUMO_HOME": str(home)})
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip()[-400:]
        hint = f" (it needs the system libraries {SYSTEM_LIBRARIES})" if "shared librar" in output else ""
        raise SumoError(f"{name} failed with exit status {done.returncode}{hint}: {output}")
