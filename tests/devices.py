# SPDX-License-Identifier: Apache-2.0
"""Every device that a test is to run on: the CPU, and a GPU where there is one."""

from __future__ import annotations

import pytest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
