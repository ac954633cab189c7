# SPDX-License-Identifier: Apache-2.0
"""Checking a scene before training: measurements, and the wrong convention that explains what does not fit."""
