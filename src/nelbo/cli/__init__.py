"""The command line: parse, validate, call."""

from nelbo.cli.app import run

__all__ = ["run"]
