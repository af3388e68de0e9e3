"""THE CPU ENGINE: packed weights, threads, memory, and the folder of compiled kernels.

In: stored tensors and token ids; out: logits with the same bits whatever the batch, the chunks and the threads. Neither
torch nor a tokenizer is imported here, and numba only to compile.
"""
