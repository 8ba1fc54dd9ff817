"""What the commands of the command line do, one module each.

A module has one function that takes plain values and returns what is to be printed; options, help
and exit codes are `computemeter.cli`'s. To add a command, write its module here and give it a
function there.
"""


class CommandError(Exception):
    """The command cannot go on; the message is the one line the user sees."""
