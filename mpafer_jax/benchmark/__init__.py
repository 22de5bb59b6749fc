"""How fast and how large: our steps against the plain PyTorch way. The command is `mpafer_jax.tools.benchmark`.

`plain_torch.py` is the only file of the package that imports PyTorch's model, and only a worker process of the
benchmark imports it.
"""
