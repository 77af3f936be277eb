"""Savings in MDM's own modules that leave every bit of a result as it was."""


def attach() -> None:
    """Arrange for the changes, each right after its module is imported. Repeating it is harmless."""
