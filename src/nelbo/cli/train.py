"""``nelbo train FAMILY``: one command for each family, made of the options that the family declares."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter
from pydantic import create_model

from nelbo.config.families import family_module, family_names, family_summary, family_word
from nelbo.errors import InputError
from nelbo.options import DataOptions, FamilyOptions, Options, TrainingOptions

HELP = """Train a model. Prints the run directory; progress goes to stderr.

```
nelbo train ddpm --data mnist
nelbo train ddpm --data photos/ --size 64x48 --fit crop --minutes 60
```

Ctrl-C writes a checkpoint; the same command with --resume goes on. 'nelbo train FAMILY --help' lists every option.
"""

EXAMPLES = """{summary}

```
nelbo train {family} --data mnist --minutes 10 --out runs/mnist
nelbo train {family} --data photos/ --size 64x48 --fit crop
nelbo train {family} --minutes 20 --out runs/mnist --resume
```
"""


def train_app(argv: Sequence[str]) -> App:
    """``train``, with a command per family. Only the one that is asked for imports its family's module."""
    app = App(name="train", help=HELP, help_format="markdown")
    asked = asked_family(argv)
    for family in family_names():
        if family == asked:
            app.command(family_command(family), name=family)
        else:
            app.command(App(name=family, help=family_summary(family)))
    return app


def asked_family(argv: Sequence[str]) -> str | None:
    """The word after ``train``, if there is one, checked to be a family."""
    if list(argv[:1]) != ["train"] or len(argv) < 2 or argv[1] in ("--help", "-h", "--version"):
        return None
    if argv[1].startswith("-"):
        raise InputError("FAMILY", f"stands before the options: nelbo train FAMILY {argv[1]} …")
    return family_word(argv[1])


def on_the_command_line(kind: type[FamilyOptions]) -> Any:
    """The settings of a family without those that only a file can hold."""
    shown = {
        name: (field.annotation, field)
        for name, field in kind.model_fields.items()
        if not field.json_schema_extra  # see nelbo.options.IN_FILES
    }
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
        data: Annotated[DataOptions, Parameter(name="*", group=data_group)] = DataOptions(),
        training: Annotated[TrainingOptions, Parameter(name="*", group=recipe_group)] = TrainingOptions(),
        model: Any = kind(),
    ) -> None:
        """Train.

        Parameters
        ----------
        out
            The run directory, which must not exist yet; runs/FAMILY-DATA if left out.
        config
            A TOML file with tables [data], [model] and [training]; the command line wins over it.
        resume
            Go on with the run in --out from its last checkpoint; if there is none, start it.
        init
            Begin with the weights of this run.
        """
        from nelbo.jobs.train import Request, carry_out

        request = Request(
            family,
            data.model_dump(exclude_unset=True),
            model.model_dump(exclude_unset=True),
            training.model_dump(exclude_unset=True),
            config,
        )
        print(carry_out(request, out, resume, init).path)

    command.__annotations__["model"] = Annotated[kind, Parameter(name="*", group=model_group)]
    app = App(
        name=family,
        help=EXAMPLES.format(family=family, summary=family_summary(family)),
        help_format="markdown",
        default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    )
    app.default(command)
    return app
