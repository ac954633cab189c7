# SPDX-License-Identifier: Apache-2.0
"""Training of a renderer on a scene's photographs: trainer, optimizer and schedules, log."""
