"""Cameras, rays and rotations on tensors; leading dimensions are free."""
