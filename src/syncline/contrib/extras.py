"""The error of an integration whose framework is not installed."""

from __future__ import annotations

__all__ = ["missing_extra"]


def missing_extra(module: str, extra: str, error: ImportError) -> ImportError:
    """Make the error for a module of ours that needs an extra: it names the extra.

        try:
            import celery
        except ImportError as error:
            raise missing_extra("syncline.contrib.celery", "celery", error) from error

    It keeps the name of the module that was not found (`error.name`).
    """
    text = f"{module} can't be imported: {error}. Install it with: pip install 'syncline[{extra}]'"
    return ImportError(text, name=error.name)
