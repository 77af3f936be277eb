"""Verbs of the command line, by subject."""
