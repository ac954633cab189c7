# SPDX-License-Identifier: Apache-2.0
"""Rendering of a camera path: frames, and the images and videos that are written of them."""
