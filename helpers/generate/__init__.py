"""05: prompt ids → new ids."""

from helpers.generate.loop import GeneratedToken, GenerationStats, PromptCache, eos_token_ids, generate  # noqa: F401
from helpers.generate.sampling import GREEDY, Sampling  # noqa: F401
