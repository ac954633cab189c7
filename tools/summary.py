#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`npcr summary` from a clone, installed or not; its code is npcr/commands/summary.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from npcr.command_line import run_script

if __name__ == "__main__":
    run_script("summary")
