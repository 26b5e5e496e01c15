"""Many users of one ContinuousBatchingPipeline without a server: what page 11 and the load test compare with."""

from __future__ import annotations

import time
from dataclasses import dataclass

from helpers.serve.engine import Limits, add_request, load_pipeline
from helpers.settings import Settings


@dataclass(frozen=True)
class User:
    """The new ids of one user, and the seconds from the common start to each of them."""

    ids: list[int]
    seconds: list[float]


def load(settings: Settings):
    """Return the exported model as the pipeline that the server uses."""
    return load_pipeline(settings.model_dir, settings.device, dict(settings.ov_config), Limits())


def generate_together(pipeline, prompts: list[list[int]], new_tokens: int) -> list[User]:
    """Return one User per prompt: all arrive at once, and decode greedily until `new_tokens`, EOS ignored."""
    options = {"max_new_tokens": new_tokens, "do_sample": False, "ignore_eos": True}
    start, users = time.perf_counter(), [User([], []) for _ in prompts]
    handles = [add_request(pipeline, number, ids, options) for number, ids in enumerate(prompts)]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter() - start
        for user, handle in zip(users, handles, strict=True):
            while handle.can_read():
                for output in handle.read().values():
                    user.ids.extend(output.generated_ids)
                    user.seconds.extend([now] * len(output.generated_ids))
    return users
