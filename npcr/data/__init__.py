# SPDX-License-Identifier: Apache-2.0
"""From a folder to a checked scene, its photographs, and samples to train on."""
