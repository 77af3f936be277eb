"""2D-to-3D lifters behind one contract."""
