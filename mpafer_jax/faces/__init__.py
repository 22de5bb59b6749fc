"""Faces in images: found with their landmarks, aligned, followed from frame to frame."""
