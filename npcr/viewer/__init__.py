# SPDX-License-Identifier: Apache-2.0
"""The viewer in the browser: what it shows, when it renders, and a thin layer on viser (extra `viewer`)."""
