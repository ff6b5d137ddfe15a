"""Arguments of a command into a settings object."""

import contextlib
import io
import sys

import tyro

from keras_adavit.errors import InputError


def parse(settings, **options):
    """As `tyro.cli`, which is told what is wrong in a box; what a settings class refuses is raised as its own sentence.

    Args:
        settings: A settings class.
        **options: As of `tyro.cli`.

    Raises:
        InputError: If a value is refused.
        SystemExit: If an argument cannot be parsed, with code 2, or after `--help`.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(settings, **options)
    except SystemExit as stop:
        reason = stop
        while reason is not None and not isinstance(reason, InputError):
            reason = reason.__cause__ or reason.__context__
        if reason is not None:
            raise InputError(str(reason)) from None
        sys.stderr.write(told.getvalue())
        raise
