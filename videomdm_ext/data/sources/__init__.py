"""Converters from what others recorded to this project's formats; each is a leaf and may be deleted."""
