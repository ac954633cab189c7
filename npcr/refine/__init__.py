# SPDX-License-Identifier: Apache-2.0
"""Refining of a trained model so that video is steady: two schemes, their losses, validation, and the run."""
