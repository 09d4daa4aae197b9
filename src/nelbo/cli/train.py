"""``nelbo train FAMILY``: the command of a family, from its options."""

from copy import copy
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter
from pydantic import create_model

from nelbo.cli.errors import in_options
from nelbo.config.families import family_module, family_summary
from nelbo.options import DataOptions, FamilyOptions, Options, TrainingOptions

EXAMPLES = """{summary}

```
nelbo train {family} --data mnist --minutes 10 --out runs/mnist
nelbo train {family} --data photos/ --size 64x48 --fit crop
nelbo train {family} --minutes 20 --out runs/mnist --resume
```
"""


def on_the_command_line(kind: type[FamilyOptions]) -> Any:
    """The family's settings without those for files only, with options in the descriptions."""
    shown = {}
    for name, field in kind.model_fields.items():
        if not field.json_schema_extra:  # see nelbo.options.IN_FILES
            described = copy(field)
            described.description = in_options(field.description or "")
            shown[name] = (field.annotation, described)
    return create_model(kind.__name__, __base__=Options, **shown)  # type: ignore[call-overload]


def family_command(family: str) -> App:
    """The command of one family."""
    kind = on_the_command_line(family_module(family).OPTIONS)
    model_group, data_group, recipe_group = Group("Model"), Group("Data"), Group("Training")

    def command(
        *,
        out: Path | None = None,
        config: Path | None = None,
        resume: bool = False,
        init: Path | None = None,
        changed_data: bool = False,
        data: Annotated[DataOptions, Parameter(name="*", group=data_group)] = DataOptions(),
        training: Annotated[TrainingOptions, Parameter(name="*", group=recipe_group)] = TrainingOptions(),
        model: Any = kind(),
    ) -> None:
        """Train.

        Parameters
        ----------
        out
            The run directory; default: runs/FAMILY-DATA.
        config
            A TOML file with tables [data], [model] and [training]; the command line has priority.
        resume
            Continue the run in --out from its last checkpoint; start it if it does not exist.
        init
            A run whose weights are the initial weights.
        changed_data
            With --resume: continue although the data have changed since the run was started.
        """
        from nelbo.jobs.settings import Request
        from nelbo.jobs.train import carry_out

        request = Request(
            family,
            data.model_dump(exclude_unset=True),
            model.model_dump(exclude_unset=True),
            training.model_dump(exclude_unset=True),
            config,
            changed_data,
        )
        print(carry_out(request, out, resume, init))

    command.__annotations__["model"] = Annotated[kind, Parameter(name="*", group=model_group)]
    app = App(
        name=family,
        help=EXAMPLES.format(family=family, summary=family_summary(family)),
        help_format="markdown",
        default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    )
    app.default(command)
    return app
