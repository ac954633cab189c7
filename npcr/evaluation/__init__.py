# SPDX-License-Identifier: Apache-2.0
"""Evaluation of rendered views and videos against photographs and true frames, and its reports."""
