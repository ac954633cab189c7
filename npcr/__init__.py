# SPDX-License-Identifier: Apache-2.0
"""NPCR: neural rendering of fuzzy objects from photographs, mattes and a point cloud."""

import os

# By default torch's threads spin for some milliseconds after each operation, on processors that the kernels' threads
# want: a fifth of a training step's time on two cores. Read once, when torch is loaded, so import npcr before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
