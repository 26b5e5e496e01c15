"""05: prompt ids → new ids."""

from helpers.generate.loop import GeneratedToken, PromptCache, eos_token_ids, generate
from helpers.generate.sampling import GREEDY, Sampling

__all__ = ["GREEDY", "GeneratedToken", "PromptCache", "Sampling", "eos_token_ids", "generate"]
