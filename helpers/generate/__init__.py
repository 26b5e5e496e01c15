"""05: prompt ids → new ids."""

from helpers.generate.loop import GeneratedToken, GenerationStats, PromptCache, eos_token_ids, generate
from helpers.generate.sampling import GREEDY, Sampling

__all__ = ["GREEDY", "GeneratedToken", "GenerationStats", "PromptCache", "Sampling", "eos_token_ids", "generate"]
