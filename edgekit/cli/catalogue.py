"""`edgekit targets`: the runtimes, device classes and recipes."""

from edgekit.cli import completion, panels
from edgekit.cli.arguments import bundle_option
from edgekit.cli.command import command
from edgekit.cli.output import Answer
from edgekit.config.recipes import load_recipe


@command(panels.MORE)
def targets(
    json_: bool,
    recipe: str | None = bundle_option(
        "NAME",
        "Recipe, or a TOML file that holds one, whose rewrites to list instead.",
        autocompletion=completion.recipes,
    ),
) -> Answer:
    """List the runtimes, device classes and recipes.

    These are the values of --target, --device-class and --recipe. With
    --recipe, list the rewrites of one recipe for each runtime and precision,
    in the order of application.
    """
    from edgekit.config.catalogue import list_catalogue

    if recipe is not None:
        return _rewrites(recipe, json_)
    catalogue = list_catalogue()
    lines = [f"target        {target.name}: {target.runtime}" for target in catalogue.targets]
    for label, entries in (("device class", catalogue.device_classes), ("recipe", catalogue.recipes)):
        lines += [f"{label:<12}  {entry.name}: {entry.description}" for entry in entries]
    return Answer(catalogue, lines)


def _rewrites(recipe: str, quiet: bool) -> Answer:
    from edgekit.config.catalogue import list_rewrites
    from edgekit.support.progress import Reporter, loading

    load_recipe(recipe)
    with loading(Reporter(quiet)):
        from edgekit.compiler.rewrites import REWRITES
    document = list_rewrites(recipe, REWRITES)
    lines = [f"{document.name}: {document.description}"]
    for row in document.rewrites:
        table = f"[{row.target}]" if row.on is None else f'[{row.target}.on."{row.on}"]'
        if row.precision == "float":
            lines.append(f"{table} {', '.join(row.device_classes)}".rstrip())
        lines.append(f"  {row.precision:<5}  {', '.join(row.rewrites) or 'none'}")
    return Answer(document, lines)
