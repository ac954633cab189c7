# SPDX-License-Identifier: Apache-2.0
"""NPCR: neural rendering of fuzzy objects from photographs, mattes and a point cloud."""

import os

# torch's idle threads spin, on processors that the kernels' own threads want, before they sleep: now for a thirtieth of
# libgomp's own 300,000 turns. It reads this once, when torch is loaded: import npcr before torch.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
