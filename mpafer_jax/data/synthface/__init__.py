"""Synthetic drawn faces: renders an identity, action units and a scene with Pillow and NumPy."""
