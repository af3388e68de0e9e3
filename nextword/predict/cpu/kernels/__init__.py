"""THE KERNELS: all that numba compiles, the forward pass from a token to a logit.

In: addresses of structs that `predict/cpu/layout.py` describes; out: numbers written to addresses. Nothing is imported
here but numba, llvmlite and the modules of `predict/cpu` that the engine shares with its kernels (layout, memory,
processor); only `kernel_cache` imports this folder.
"""
