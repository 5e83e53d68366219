"""The commands: one thin file each; parse, call, print. The only place that names typer and rich."""
