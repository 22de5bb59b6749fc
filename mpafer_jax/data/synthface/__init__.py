"""Drawn faces: identity, action units and scene in, an image out; Pillow and NumPy only.

`face` and `units` say what is drawn, `expressions` draws unit intensities for an expression, `styles` names ways to
depict, `draw.render` makes the image, and `generate` makes many, in parallel and each from its own seed.
"""
