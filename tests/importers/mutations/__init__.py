# SPDX-License-Identifier: Apache-2.0
"""Damaged captures, and an oracle: an import is right, refused by name, or warned about."""
