"""Measure `python -m helpers serve` under load, and the bare pipeline in the same run: `nox -s load`.

    python bench/load.py [--only SECTION]… [--learners N]… [--rounds 3] [--minutes 10] [--think 1.0]

Everything runs on this machine, on loopback: the clients use the same cores as the server.  Each section stores its
result in bench/load.json, from which a part of docs/serving.md is written.  --think scales the learners' think times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from operator import truediv
from statistics import median

import psutil
from rehearsal import cpu_name, rounded
from report import replace_part, table

from helpers import settings
from helpers.files import GIB, atomic_write_text

RESULTS, PAGE = settings.ROOT / "bench" / "load.json", settings.ROOT / "docs" / "serving.md"
NEW_TOKENS, TURNS, THINK = 64, 5, (10.0, 30.0)  # seconds
KEY = secrets.token_urlsafe(32)


@dataclass
class Reply:
    """One answer: when it was asked and ended, the seconds to its first token, its events, and what went wrong."""

    asked: float
    first: float | None = None
    ended: float = 0.0
    events: int = 0
    tokens: int = 0
    text: str = ""
    error: str = ""


@dataclass
class Server:
    port: int
    process: subprocess.Popen

    async def ask(self, messages: list[dict], hang_up: bool = False, tokens: int = NEW_TOKENS) -> Reply:
        """Ask over a new connection with a minimal client, because learners' clients run on their own machines."""
        body = {"model": choice.model, "messages": messages, "temperature": 0, "max_tokens": tokens, "stream": True}
        content = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        reply, texts = Reply(time.perf_counter()), []
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(head.encode() + content)
            status = int((await reader.readline()).split()[1])
            done = False
            async for line in reader:
                if line.startswith(b'data: {"id"'):
                    reply.first = reply.first or time.perf_counter() - reply.asked
                    reply.events += 1
                    if hang_up:
                        break
                    texts.append(line)
                done = done or line.startswith(b"data: [DONE]")
            writer.close()
            reply.error = "" if done or hang_up else f"status {status}" if status != 200 else "the stream broke off"
        except (OSError, IndexError, ValueError) as error:
            reply.error = type(error).__name__
        reply.ended = time.perf_counter()
        events = [json.loads(line[6:]) for line in texts]
        reply.text = "".join(c["delta"].get("content", "") for event in events for c in event["choices"])
        reply.tokens = next((event["usage"]["completion_tokens"] for event in events if event.get("usage")), 0)
        return reply

    def get(self, path: str) -> str:
        import httpx

        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.get(url, headers={"Authorization": f"Bearer {KEY}"}, timeout=10).text

    def in_use(self) -> float:
        """Return the requests in the server plus those in its pipeline, so 0 only if both are idle."""
        return sum(float(line.split()[1]) for line in self.get("/metrics").splitlines() if line.startswith(SLOTS))

    def memory(self) -> float:
        """Return the memory of the replicas and their models, in MiB."""
        names = ("ServeReplica", "spawn_main")
        total = 0
        for process in psutil.process_iter(["cmdline", "environ"]):
            line = " ".join(process.info["cmdline"] or ())
            if any(name in line for name in names) and (process.info["environ"] or {}).get("TUTORIAL_API_KEY") == KEY:
                total += process.memory_full_info().uss
        return total / 2**20


SLOTS = ("chat_in_progress ", "chat_running ")
choice = settings.load()


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Run the server as a reader would, and end it with SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "helpers", "serve", "--port", str(port), *options]
    process = subprocess.Popen(
        argv, env=os.environ | {"TUTORIAL_API_KEY": KEY}, stdout=subprocess.PIPE, encoding="utf-8"
    )
    try:
        if not any(line.startswith("Ready") for line in process.stdout):
            raise RuntimeError("The server did not start.")
        server = Server(port, process)
        asyncio.run(server.ask(question(0)))
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def question(number: int) -> list[dict]:
    return [{"role": "user", "content": f"Tell me story number {number} about the sea, with many details."}]


def generate_together(pipeline, prompts: list[list[int]]) -> list[list[float]]:
    """Return the seconds to each token of each prompt: all arrive at once and decode NEW_TOKENS greedily."""
    from helpers.serve.engine import add_request

    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "ignore_eos": True}
    start, arrived = time.perf_counter(), [[] for _ in prompts]
    handles = [add_request(pipeline, number, ids, options) for number, ids in enumerate(prompts)]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter() - start
        for times, handle in zip(arrived, handles, strict=True):
            while handle.can_read():
                times.extend(now for output in handle.read().values() for _ in output.generated_ids)
    return arrived


def bare_worker(connection) -> None:
    """Run the server's pipeline without the server, in its own process as the server does."""
    from helpers.checkpoint.tokenizer import load_tokenizer
    from helpers.serve.engine import Limits, load_pipeline
    from helpers.tokenize import prompt_ids

    pipeline = load_pipeline(choice.model_dir, choice.device, dict(choice.ov_config), Limits())
    tok = load_tokenizer(choice.model_dir)
    while numbers := connection.recv():
        connection.send(generate_together(pipeline, [prompt_ids(tok, question(n)) for n in numbers]))


@contextmanager
def bare_pipeline() -> Iterator[Callable[[list[int]], list[list[float]]]]:
    """Run the bare pipeline in a process of its own; yield a function that returns each user's seconds per token."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=bare_worker, args=(theirs,), daemon=True)
    process.start()

    def run(numbers: list[int]) -> list[list[float]]:
        ours.send(numbers)
        return ours.recv()

    run([0])
    yield run
    ours.send([])
    process.join()


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def summary(replies: list[Reply]) -> dict:
    """Return the figures of questions that were asked at once or over time."""
    good = [reply for reply in replies if not reply.error]
    firsts = [reply.first for reply in good]
    seconds = max(reply.ended for reply in replies) - min(reply.asked for reply in replies)
    errors = {error: sum(reply.error == error for reply in replies) for error in {r.error for r in replies if r.error}}
    tokens = sum(reply.tokens for reply in good)
    return {
        "tokens_per_second": tokens / seconds,
        "ttft_p50": quantile(firsts, 0.5),
        "ttft_p95": quantile(firsts, 0.95),
        "answers": len(good),
        "events_per_token": sum(reply.events for reply in good) / max(1, tokens),
        "errors": errors,
    }


def together(given) -> dict:
    """Ask 1, 8, 30, 60 questions at once, in turns with the bare pipeline."""
    found, number = {}, 1
    with serving() as server, bare_pipeline() as bare:
        for users in given.learners or (1, 8, 30, 60):
            rounds = []
            for _ in range(given.rounds):
                numbers = list(range(number, number + users))
                number += users

                async def all_at_once(numbers=numbers) -> list[Reply]:
                    return await asyncio.gather(*(server.ask(question(n)) for n in numbers))

                ours, seconds = summary(asyncio.run(all_at_once())), bare(numbers)
                firsts, speed = [each[0] for each in seconds], users * NEW_TOKENS / max(each[-1] for each in seconds)
                theirs = {"tokens_per_second": speed, "ttft_p95": quantile(firsts, 0.95)}
                rounds.append({"server": ours, "bare": theirs})
                print(users, json.dumps(rounded(rounds[-1])), flush=True)
            found[str(users)] = rounds
        found["in_use"] = server.in_use()
    return found


async def learner(server: Server, number: int, think: float, turns: int = TURNS, start: float = 0.0) -> list[Reply]:
    """Hold a conversation; the learner thinks before each question.  A question that fails is dropped, not repeated."""
    draw, messages, replies = random.Random(number), [], []
    await asyncio.sleep(start)
    for turn in range(turns):
        await asyncio.sleep(think * draw.uniform(*THINK))
        messages += [{"role": "user", "content": f"{question(number)[0]['content']} Part {turn}."}]
        reply = await server.ask(messages)
        replies.append(reply)
        if reply.error:
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": reply.text})
    return replies


def learners(given) -> dict:
    """Let 1, 8, 30, 60 learners hold conversations, with think times of 10 to 30 seconds."""
    found = {}
    with serving() as server:
        for users in given.learners or (1, 8, 30, 60):

            async def lesson(users=users) -> list[list[Reply]]:
                return await asyncio.gather(*(learner(server, n, given.think) for n in range(users)))

            found[str(users)] = summary(sum(asyncio.run(lesson()), [])) | {"think": given.think}
            print(users, json.dumps(rounded(found[str(users)])), flush=True)
        found["in_use"] = server.in_use()
    return found


def soak(given) -> dict:
    """Let 30 learners ask for minutes, with pauses of 0.2 to 0.6 s; record the memory every half minute."""
    memory, replies = [], []
    with serving() as server:

        async def watch(until: float) -> None:
            while time.perf_counter() < until:
                memory.append(await asyncio.to_thread(server.memory))
                print(f"{memory[-1]:.0f} MiB, {len(replies)} answers", flush=True)
                await asyncio.sleep(30)

        async def go_on(number: int, until: float) -> None:
            while time.perf_counter() < until:
                replies.extend(await learner(server, number, think=0.02))
                number += 100

        async def all_of_them() -> None:
            until = time.perf_counter() + 60 * given.minutes
            await asyncio.gather(watch(until), *(go_on(n, until) for n in range(30)))

        asyncio.run(all_of_them())
        in_use = server.in_use()
    # In the first three minutes the KV cache fills with the prefixes of conversations.
    full = memory[min(6, len(memory) - 1) :]
    ends = {"at_start": memory[0], "after_three_minutes": full[0], "least": min(full), "most": max(full)}
    found = summary(replies)
    return found | ends | {"minutes": given.minutes, "in_use": in_use, "failed": sum(found["errors"].values())}


def hang_ups(given) -> dict:
    """Let 200 clients close their connection after the first event of a long answer."""
    with serving() as server:
        before = server.memory()

        async def all_of_them() -> None:
            for start in range(0, 200, 20):
                await asyncio.gather(*(server.ask(question(n), True, 1000) for n in range(start, start + 20)))

        asyncio.run(all_of_them())
        asked, seconds = time.perf_counter(), 0.0
        while server.in_use() and seconds < 60:
            seconds = time.perf_counter() - asked
            time.sleep(0.1)
        return {"in_use": server.in_use(), "seconds_to_idle": seconds, "mib": server.memory() - before}


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], None]]]:
    """Run two Ray nodes on this machine; yield the address, and a function that kills the second one."""
    from helpers.serve.cluster import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # Ray reads it when it is imported
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    try:
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def kill(given, what: str) -> dict:
    """Kill a replica, or a node, during 30 conversations on two nodes; return the failures and the time to recover."""
    with two_nodes() as (address, kill_node), serving("--address", address, "--replicas", "2") as server:
        import ray
        from ray import serve

        ray.init(address, namespace="serve", log_to_driver=False, logging_level="error")

        def alive() -> int:
            return serve.status().applications["chat"].deployments["chat"].replica_states.get("RUNNING", 0)

        def kill_replica() -> None:
            replicas = [each for each in psutil.process_iter(["cmdline"]) if "ray::ServeReplica:chat" in str(each.info)]
            replicas[0].kill()

        killed, recovered = [], []

        async def strike() -> None:
            await asyncio.sleep(8)
            await asyncio.to_thread(kill_node if what == "node" else kill_replica)
            killed.append(time.perf_counter())
            while await asyncio.to_thread(alive) > 1 and time.perf_counter() - killed[0] < 30:
                await asyncio.sleep(0.2)
            while await asyncio.to_thread(alive) < 2 and time.perf_counter() - killed[0] < 180:
                await asyncio.sleep(0.2)
            recovered.append(time.perf_counter())

        async def lesson() -> list[Reply]:
            talks = (learner(server, n, think=0.1, start=n / 10) for n in range(30))
            _, *found = await asyncio.gather(strike(), *talks)
            return sum(found, [])

        replies = asyncio.run(lesson())
        late = asyncio.run(server.ask(question(1000)))
        ray.shutdown()
    after = [reply for reply in replies if reply.asked > killed[0]]
    refused = [reply for reply in after if reply.error]
    return {
        "answers": sum(not reply.error for reply in replies),
        "in_progress": sum(reply.asked < killed[0] < reply.ended for reply in replies),
        "broken": sum(bool(reply.error) and reply.asked < killed[0] for reply in replies),
        "asked_later": len(after),
        "refused_later": len(refused),
        "seconds_with_refusals": max((reply.asked for reply in refused), default=killed[0]) - killed[0],
        "seconds_to_two_replicas": recovered[0] - killed[0],
        "at_the_end": late.error or "answered",
        "errors": summary(replies)["errors"],
    }


def in_process(section: Callable, *arguments) -> dict:
    """Run a section in its own process, because Ray Serve's client stays bound to its first cluster."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(section, arguments)


SECTIONS: dict[str, Callable] = {
    "together": together,
    "learners": learners,
    "hang_ups": hang_ups,
    "replica": lambda given: in_process(kill, given, "replica"),
    "node": lambda given: in_process(kill, given, "node"),
    "soak": soak,
}


def document(results: dict) -> str:
    """Return the measured part of docs/serving.md."""
    about = results["about"]
    where = f"{about['machine']}, with {about['model']}; the clients ran on the same cores"
    lines = [f"Measured by `nox -s load` on {where}.\n"]
    if found := results.get("together"):
        rows = []
        for users in sorted(filter(str.isdigit, found), key=int):
            sides = [[each[side] for each in found[users]] for side in ("server", "bare")]
            speeds, firsts = (
                [[each[what] for each in side] for side in sides] for what in ("tokens_per_second", "ttft_p95")
            )
            cells = [f"{median(side):.0f}" for side in speeds] + [f"{median(map(truediv, *speeds)):.2f}"]
            cells += [f"{median(side):.2f} s" for side in firsts]
            rows.append([users, *cells, str(sum(sum(each["errors"].values()) for each in sides[0]))])
        head = ["questions at once", "server, tokens/s", "bare", "ratio", "TTFT p95, server", "bare", "errors"]
        what = f"Answers of {NEW_TOKENS} tokens. The server and its engine alone (*bare*) take turns. Figures are "
        what += "medians of the rounds; *ratio* is the median of the ratios within each round"
        lines.append(f"{what}:\n\n{table(head, rows)}\n")
    if found := results.get("learners"):
        rows = []
        for users in sorted(filter(str.isdigit, found), key=int):
            each = found[users]
            seconds = [f"{each[what]:.2f} s" for what in ("ttft_p50", "ttft_p95")]
            rows.append([users, str(each["answers"]), *seconds, str(sum(each["errors"].values()))])
        low, high = (each["think"] * seconds for seconds in THINK)
        what = f"Conversations of {TURNS} turns; before each question the learner thinks for {low:g} to {high:g} s"
        lines.append(f"{what}:\n\n{table(['learners', 'answers', 'TTFT p50', 'p95', 'errors'], rows)}\n")
    lines += [SENTENCES[name].format(**results[name]) for name in SENTENCES if name in results]
    return "\n".join(lines)


KILLED = (
    " is killed in the middle of 30 conversations (two replicas on two Ray nodes on this machine, kill -9): "
    "{broken} of the {in_progress} answers in progress broke off, {refused_later} of {asked_later} questions asked "
    "later failed, and two replicas were running again after {seconds_to_two_replicas:.0f} s.\n"
)
SENTENCES = {
    "replica": "**A replica**" + KILLED,
    "node": "**A node**" + KILLED,
    "soak": "**{minutes:g} minutes of load** by 30 learners, with pauses of 0.2 to 0.6 s: {answers:,} answers, "
    "{failed} errors; "
    "memory {at_start:.0f} MiB at the start, {after_three_minutes:.0f} MiB after three minutes, from then on between "
    "{least:.0f} and {most:.0f} MiB; {in_use:.0f} slots in use afterwards.\n",
    "hang_ups": "**200 clients hang up** at the first token of a long answer: {in_use:.0f} slots in use afterwards.\n",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="run this section; can be repeated")
    parser.add_argument("--learners", action="append", type=int, help="number of learners; can be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the section together")
    parser.add_argument("--minutes", type=float, default=10, help="minutes of the section soak")
    parser.add_argument("--think", type=float, default=1.0, help="factor of the think times")
    parser.add_argument("--report", action="store_true", help="only update docs/serving.md")
    given = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    memory = round(psutil.virtual_memory().total / GIB)
    results["about"] = {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores, {memory} GiB of memory",
        "model": choice.model,
    }
    for name in () if given.report else given.only or SECTIONS:
        found = rounded(SECTIONS[name](given))
        keep = results.get(name, {}) if name in ("together", "learners") else {}  # of different numbers of learners
        results[name] = keep | found | {"date": date.today().isoformat()}
        print(name, json.dumps(found), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    atomic_write_text(PAGE, replace_part(PAGE.read_text(encoding="utf-8"), "load", document(results)))


if __name__ == "__main__":
    main()
