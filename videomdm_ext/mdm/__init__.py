"""The host: an MDM checkout, or the stand-in with the same interface. Only here are MDM's names known."""
