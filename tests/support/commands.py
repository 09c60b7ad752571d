"""The commands of the program, each of which is loaded when somebody asks for it."""

import click


def commands_in(group: click.Group) -> dict[str, click.Command]:
    """Return every command of *group* by its name."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}
