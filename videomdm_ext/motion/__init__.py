"""Positions and HumanML3D feature vectors on tensors, for any skeleton."""
