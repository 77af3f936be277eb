"""Motions for other programs: joint rotations on a fixed skeleton, BVH, GLB, and a page for the browser."""
