"""2D supervision: observations, targets, terms and their weighted sum (METHOD sections 3 to 6)."""
