# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from torch import nn

from tests.checkpoints.published_model import build_model, define_classes


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A model as the published code holds it in memory; see `published_model.write`."""
    return build_model(define_classes(monkeypatch))
