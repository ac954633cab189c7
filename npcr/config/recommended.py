# SPDX-License-Identifier: Apache-2.0
"""The settings that new scenes are trained with (docs/quality.md); the keys' own defaults are the published ones.

configs/demo.yml and the quality study (benchmarks/quality) train with these, too.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, dict[str, Any]]  # values by section and key

RECOMMENDED: Settings = {
    "MODEL": {"FORM": "strands", "NETWORK": False, "FIELD_NODES": 4, "FILTER_VARIANCE": 0.1},
    "DATASETS": {"SHIFT": 0, "MAXRATION": 0},
    "LOSS": {"PERCEPTUAL": 0, "MSE": 0, "L1": 1, "SSIM": 0.2, "MATTE": 3},
    "SOLVER": {"OPTIMIZER_NAME": "AdamW", "BASE_LR": 0.001, "FEATURE_LR_FACTOR": 15, "HARMONICS_LR_FACTOR": 15,
               "HARMONICS_DECAY": 1, "OPACITY_LR_FACTOR": 90, "POSITION_LR_FACTOR": 30, "WIDTH_LR_FACTOR": 30,
               "RELOCATE_EVERY": 100, "RELOCATE_BELOW": 0.5, "DROP_SPLATS": 0.2, "RESOLUTION_SCHEDULE": [0.25],
               "LR_DECAY": "cosine", "WARMUP_ITERS": 2, "WEIGHT_DECAY": 0, "MAX_EPOCHS": 100},
    "TEMPORAL": {"FILTER_VARIANCE": 0.2},
    "REFINE": {"PATH": "random", "LR": 0.0001, "STEADINESS": 1000, "ANCHOR": 10, "PSNR_DROP": 0.2},
}
