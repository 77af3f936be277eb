"""What papers report, measured here: lifting errors, MDM's own evaluation, and a whole table with all its stages."""
