# SPDX-License-Identifier: Apache-2.0
"""The commands, one a file: `npcr train` and the script tools/train.py both run npcr/commands/train.py.

Each module has `parse(arguments)`, which returns the options of a command line, and `main(arguments)`, which runs the
command; `arguments` are the words after the command's name. `npcr.command_names.COMMANDS` lists the commands.
"""
