# SPDX-License-Identifier: Apache-2.0
"""Print the reference of all keys: `python -m npcr.config > docs/configuration.md`."""

from npcr.config.reference import markdown

if __name__ == "__main__":
    print(markdown(), end="")
