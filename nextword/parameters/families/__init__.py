"""MODEL FAMILIES: one file each, from Hugging Face's and llama.cpp's names to the one Transformer and back.

In: the settings of a stored model; out: an Architecture, and which stored tensors are which of ours. Neither torch nor
another family's file is imported here, but the one that a family is built on.
"""

from nextword.parameters.families import gpt2, gpt_neox, llama, qwen2, qwen3
from nextword.parameters.families.family import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (gpt2.FAMILY, gpt_neox.FAMILY, llama.FAMILY, qwen2.FAMILY, qwen3.FAMILY)
}
