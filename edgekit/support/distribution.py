"""The name under which pip knows edgekit, and the command that installs one of its extras.

On the public package index `edgekit` is an unrelated project, so a message that names it would install a stranger's
code.
"""

NAME = "edgekit-deploy"
"""The distribution's name, as [project] in pyproject.toml declares it."""


def install_command(extra: str) -> str:
    """The pip command that adds an extra.

    It works as written where edgekit was installed by pip, from a wheel or a checkout: pip keeps the installed
    distribution and adds only what the extra requires.
    """
    return f'pip install "{NAME}[{extra}]"'
