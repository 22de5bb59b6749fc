"""MPA-FER in JAX: multimodal prompt alignment for facial expression recognition with a frozen CLIP."""

__version__ = "0.1.0"
