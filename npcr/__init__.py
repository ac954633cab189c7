# SPDX-License-Identifier: Apache-2.0
"""NPCR: neural rendering of fuzzy objects from photographs, mattes and a point cloud."""

__version__ = "0.1.0"
