# SPDX-License-Identifier: Apache-2.0
"""Settings of the process that must be made before torch is loaded.

Scripts import this module first; the library never does, for a library must not change the process it is used in.

torch's idle threads spin, on processors that the kernels' own threads want, before they sleep. libgomp reads
`GOMP_SPINCOUNT` once, when torch is loaded: with it they sleep after a thirtieth of the 300,000 turns that they
otherwise spin. SOLVER.DETERMINISTIC needs a workspace of cuBLAS whose size is read once, too, when CUDA starts. Whoever
set one of these variables keeps it.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # in KiB, and how many
