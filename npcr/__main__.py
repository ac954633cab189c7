# SPDX-License-Identifier: Apache-2.0
"""`python -m npcr` is the command `npcr`."""

from npcr.command_line import main

if __name__ == "__main__":
    main()
