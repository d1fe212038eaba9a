"""The functions of `studies.commands` in a shell: options, tables, exit codes.

The only room that prints. Nothing imports it.
"""
