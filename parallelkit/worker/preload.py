"""numpy, imported once by the fork server, so that no worker has to.

The BLAS that comes with numpy starts its threads when it is loaded; a fork server must not have
any. Workers set the number that their share allows later.
"""

import os

_NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_before = {name: os.environ.get(name) for name in _NAMES}
os.environ.update(dict.fromkeys(_NAMES, "1"))
try:
    import numpy as np  # noqa: F401
except ImportError:
    pass
for _name, _value in _before.items():
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value
