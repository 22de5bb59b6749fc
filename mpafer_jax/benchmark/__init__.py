"""How fast and how large: our steps against the plain PyTorch way. The command is `mpafer_jax.tools.benchmark`.

PyTorch is imported by `plain_torch.py` and `torch_contender.py` alone, and these by a worker process alone.
"""
