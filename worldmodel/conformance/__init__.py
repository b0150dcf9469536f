"""The rules of a world model, as tests that run on anyone's model:

    python -m tether.worldmodel.conformance --world-model mine:MineConfig

`--world-model` names a config class by import path (or a built-in model), as everywhere; it may be repeated. Everything
else goes to pytest: `-x`, `-k padding`. Needs the extra `test`.

`test_rules.py` holds the rules, `plugin.py` what they share, `batches.py` the replays that models are tested on.
"""

import os
import tempfile

# For the tests' process, before JAX is imported: a CPU, fast compilation, one compilation cache.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",  # compiles 4 times as fast
    "TF_CPP_MIN_LOG_LEVEL": "3",  # the cache warns of machine features at length
    "JAX_COMPILATION_CACHE_DIR": os.path.join(tempfile.gettempdir(), "tether-test-cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
