"""Remedies for current packages and absent files: each is applied only where it is needed, and MDM is not edited."""


def prepare() -> None:
    """Apply what is needed before MDM's modules are imported, and arrange for the rest. Repeating it is harmless."""
