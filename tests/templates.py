# ruff: noqa: E501  templates are easier to compare on one line
"""Chat templates of many shapes, written for these tests after what public models do, and their tokenizers."""

from __future__ import annotations

import json
from functools import cache

from helpers.settings import ROOT

LOOP, END, GEN, FI = "{% for m in messages %}", "{% endfor %}", "{% if add_generation_prompt %}", "{% endif %}"
USER, ANSWER, SYSTEM = "{% if m.role == 'user' %}", "{% elif m.role == 'assistant' %}", "{% elif m.role == 'system' %}"
BOS, EOS, C = "{{ bos_token }}", "{{ eos_token }}", "{{ m.content }}"
TRIM, STRIP = "{{ m.content | trim }}", "{{ m.content.strip() }}"
THOUGHT = "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}"


def chatml(content: str = C, first: str = "", tail: str = "") -> str:
    turn = "<|im_start|>{{ m.role }}\n" + content + "<|im_end|>\n"
    return first + LOOP + turn + END + GEN + "<|im_start|>assistant\n" + tail + FI


def roles(user: str, answer: str, system: str, last: str, first: str = "") -> str:
    return first + LOOP + USER + user + ANSWER + answer + SYSTEM + system + FI + END + GEN + last + FI


DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
TAGS = "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}"
MERGED = (  # the system message becomes a part of the first question
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
)
WHOLE = "{{ ((first + m.content) if loop.first else m.content)"
LAST_QUESTION = (  # Qwen3: thoughts are kept only behind the last question
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
)
KEPT_THOUGHT = (
    "{% if m.role == 'assistant' and loop.index0 < ns.last and '</think>' in m.content %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}"
)
QWEN3 = (  # with reasoning_content apart, or in the content
    LAST_QUESTION + LOOP + "{% if m.role == 'assistant' %}{% set content = m.content %}{% set thought = '' %}"
    "{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}{% elif '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{% else %}{{ content }}{% endif %}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PHI = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
L3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
HEADER = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
DEEP = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
GRANITE = ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")
COHERE = ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
COHERE += ("<|END_OF_TURN_TOKEN|>",)
TURN, OVER = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"

# name: (kind of tokenizer, special tokens, added tokens that are not special, template)
SHAPES: dict[str, tuple[str, tuple, tuple, str]] = {
    "chatml": ("bytes", IM, (), chatml()),
    "chatml, trimmed": ("bytes", IM, (), chatml(TRIM)),
    "chatml, users stripped": ("bytes", IM, (), chatml("{{ m.content.strip() if m.role == 'user' else m.content }}")),
    "chatml, system rstripped": (
        "bytes",
        IM,
        (),
        chatml("{{ m.content.rstrip() if m.role == 'system' else m.content }}"),
    ),
    "chatml, default system": ("bytes", IM, (), chatml(first=DEFAULT)),
    "chatml, bos": ("bytes", ("<s>", *IM[1:]), (), chatml(first=BOS)),
    "chatml, open thought": ("bytes", IM, ("<think>", "</think>"), chatml(THOUGHT, tail="<think>\n")),
    "chatml, empty thought": ("bytes", IM, ("<think>", "</think>"), chatml(THOUGHT, tail="<think>\n\n</think>\n\n")),
    "chatml, thoughts as text": ("bytes", IM, (), chatml(THOUGHT)),
    "chatml, thoughts before the last": ("bytes", IM, ("<think>", "</think>"), LAST_QUESTION + chatml(KEPT_THOUGHT)),
    "qwen3": ("bytes", IM, ("<think>", "</think>"), QWEN3),
    "chatml, command removed": (
        "bytes",
        IM,
        (),
        chatml("{{ m.content.replace('/no_think', '').rstrip() if m.role == 'system' else m.content }}"),
    ),
    "chatml, empty lines joined": ("bytes", IM, (), chatml(r"{{ m.content.replace('\n\n', '\n') }}")),
    "chatml, carriage returns": ("bytes", IM, (), chatml(r"{{ m.content.replace('\r\n', '\n') }}")),
    "chatml, system in capitals": (
        "bytes",
        IM,
        (),
        chatml("{{ m.content | upper if m.role == 'system' else m.content }}"),
    ),
    "chatml, length before": ("bytes", IM, (), chatml("{{ m.content | length }} {{ m.content }}")),
    "chatml, json": ("bytes", IM, (), chatml("{{ m.content | tojson }}")),
    "chatml, metaspace": ("first", IM, (), chatml()),
    "chatml, prepended": ("prepend", IM, (), chatml()),
    "chatml, unigram": ("unigram", IM, (), chatml()),
    "chatml, white space tokens": ("bytes", IM, ("  ", "   ", "\n\n"), chatml()),
    "chatml, html tokens": ("bytes", IM, ("<b>", "</b>", "<table>"), chatml()),
    "chatml, markers not special": ("bytes", IM[:1], IM[1:], chatml()),
    "phi-3": ("bytes", PHI, (), LOOP + TAGS + END + GEN + "<|assistant|>\n" + FI),
    "phi-3, rstrip": (
        "prepend",
        tuple((text, "r") for text in PHI),
        (),
        LOOP + TAGS + END + GEN + "<|assistant|>\n" + FI,
    ),
    "phi-3, not special": ("bytes", PHI[:1], PHI[1:], LOOP + TAGS + END + GEN + "<|assistant|>\n" + FI),
    "phi-3, both sides": (
        "bytes",
        tuple((text, "lr") for text in PHI),
        (),
        LOOP + TAGS + END + GEN + "<|assistant|>\n" + FI,
    ),
    "phi-4": (
        "bytes",
        (*IM, "<|im_sep|>"),
        (),
        LOOP
        + "<|im_start|>{{ m.role }}<|im_sep|>"
        + C
        + "<|im_end|>"
        + END
        + GEN
        + "<|im_start|>assistant<|im_sep|>"
        + FI,
    ),
    "phi-4-mini": (
        "bytes",
        PHI,
        (),
        LOOP + "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}" + END + GEN + "<|assistant|>" + FI,
    ),
    "llama-2": (
        "first",
        ("<s>", "</s>"),
        (),
        (
            "{% if messages[0].role == 'system' %}{% set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
            "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
            "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + ((sys + m.content) if loop.first else m.content).strip() + ' [/INST]' }}"
            "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
        ),
    ),
    "llama-2, prepended": (
        "prepend",
        ("<s>", "</s>"),
        (),
        roles("[INST] " + STRIP + " [/INST]", " " + STRIP + " " + EOS, C, "", BOS),
    ),
    "llama-3": (
        "bytes",
        L3,
        (),
        BOS
        + LOOP
        + HEADER
        + TRIM
        + "<|eot_id|>"
        + END
        + GEN
        + "<|start_header_id|>assistant<|end_header_id|>\n\n"
        + FI,
    ),
    "llama-3.1": (
        "bytes",
        L3,
        (),
        (
            BOS + "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
            "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}<|eot_id|>"
            "{% for m in rest %}"
            + HEADER
            + TRIM
            + "<|eot_id|>"
            + END
            + GEN
            + "<|start_header_id|>assistant<|end_header_id|>\n\n"
            + FI
        ),
    ),
    "mistral": ("first", ("<s>", "</s>"), (), roles("[INST] " + C + " [/INST]", " " + C + EOS, C + "\n\n", "", BOS)),
    "mistral, control tokens": (
        "first",
        ("<s>", "</s>", "[INST]", "[/INST]"),
        (),
        roles("[INST] " + C + "[/INST]", " " + C + EOS, C + "\n\n", "", BOS),
    ),
    "mistral, system in the question": (
        "first",
        ("<s>", "</s>", "[INST]", "[/INST]"),
        (),
        BOS
        + MERGED
        + USER
        + "[INST] "
        + WHOLE
        + " }}[/INST]{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
    ),
    "mistral, tekken": (
        "bytes",
        ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        (),
        roles("[INST]" + C + "[/INST]", C + EOS, "[SYSTEM_PROMPT]" + C + "[/SYSTEM_PROMPT]", "", BOS),
    ),
    "zephyr": (
        "first",
        ("<s>", "</s>"),
        (),
        LOOP + "<|{{ m.role }}|>\n" + C + EOS + "\n" + END + GEN + "<|assistant|>\n" + FI,
    ),
    "tinyllama": (
        "prepend",
        ("<s>", "</s>"),
        (),
        LOOP + "{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n" + END + GEN + "<|assistant|>" + FI,
    ),
    "gemma": (
        "bytes",
        GEMMA,
        ("<b>", "<table>", "\n\n", "  "),
        BOS
        + MERGED
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        + WHOLE
        + " | trim }}<end_of_turn>\n"
        + END
        + GEN
        + "<start_of_turn>model\n"
        + FI,
    ),
    "gemma, unigram": (
        "unigram",
        GEMMA,
        (),
        BOS
        + MERGED
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        + WHOLE
        + " | trim }}<end_of_turn>\n"
        + END
        + GEN
        + "<start_of_turn>model\n"
        + FI,
    ),
    "falcon": (
        "bytes",
        ("<|endoftext|>",),
        (),
        LOOP
        + r"{{ m.role | capitalize }}: {{ m.content.strip().replace('\r\n', '\n').replace('\n\n', '\n') }}"
        + "\n\n"
        + END
        + GEN
        + "Assistant:"
        + FI,
    ),
    "falcon-3": (
        "bytes",
        PHI,
        (),
        LOOP
        + "<|{{ m.role }}|>\n"
        + C
        + "{{ '\n' if m.role != 'assistant' else eos_token }}"
        + END
        + GEN
        + "<|assistant|>\n"
        + FI,
    ),
    "deepseek coder": (
        "bytes",
        DEEP,
        (),
        roles("### Instruction:\n" + C + "\n", "### Response:\n" + C + "\n<|EOT|>\n", C, "### Response:", BOS),
    ),
    "deepseek chat": (
        "bytes",
        DEEP,
        (),
        roles("User: " + C + "\n\n", "Assistant: " + C + EOS, C + "\n\n", "Assistant:", BOS),
    ),
    "deepseek-r1": (
        "bytes",
        DEEP,
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        roles(
            "<｜User｜>" + C,
            "<｜Assistant｜>{{ m.content.split('</think>')[-1] }}" + EOS,
            C,
            "<｜Assistant｜><think>\n",
            BOS,
        ),
    ),
    "command-r": (
        "bytes",
        COHERE,
        (),
        BOS
        + LOOP
        + TURN
        + "{{ {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>'}[m.role] }}"
        + STRIP
        + OVER
        + END
        + GEN
        + TURN
        + "<|CHATBOT_TOKEN|>"
        + FI,
    ),
    "aya": (
        "bytes",
        COHERE,
        (),
        BOS
        + LOOP
        + TURN
        + "{{ '<|' + {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role] + '_TOKEN|>' }}"
        + C
        + OVER
        + END
        + GEN
        + TURN
        + "<|CHATBOT_TOKEN|>"
        + FI,
    ),
    "granite": (
        "bytes",
        GRANITE,
        (),
        LOOP
        + "<|start_of_role|>{{ m.role }}<|end_of_role|>"
        + C
        + "<|end_of_text|>\n"
        + END
        + GEN
        + "<|start_of_role|>assistant<|end_of_role|>"
        + FI,
    ),
    "olmo": (
        "bytes",
        ("<|endoftext|>",),
        ("<|user|>", "<|assistant|>"),
        BOS
        + LOOP
        + "<|{{ m.role }}|>\n"
        + C
        + "{{ eos_token if m.role == 'assistant' else '' }}\n"
        + END
        + GEN
        + "<|assistant|>\n"
        + FI,
    ),
    "internlm": ("prepend", ("<s>", "</s>", *IM[1:]), (), chatml(first=BOS)),
    "baichuan": (
        "first",
        ("<s>", "</s>", "<reserved_106>", "<reserved_107>"),
        (),
        roles("<reserved_106>" + C, "<reserved_107>" + C, C, "<reserved_107>"),
    ),
    "glm": (
        "bytes",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"),
        (),
        "[gMASK]<sop>" + LOOP + "<|{{ m.role }}|>\n" + C + END + GEN + "<|assistant|>\n" + FI,
    ),
    "chatglm": (
        "unigram",
        ("[gMASK]", "sop", "<|user|>", "<|assistant|>", "<|system|>"),
        (),
        "[gMASK]sop" + LOOP + "<|{{ m.role }}|>\n " + C + END + GEN + "<|assistant|>\n" + FI,
    ),
    "openchat": (
        "first",
        ("<s>", "</s>", "<|end_of_turn|>"),
        (),
        BOS
        + LOOP
        + "GPT4 Correct {{ m.role | title }}: "
        + C
        + "<|end_of_turn|>"
        + END
        + GEN
        + "GPT4 Correct Assistant:"
        + FI,
    ),
    "vicuna": (
        "first",
        ("<s>", "</s>"),
        (),
        roles("USER: " + STRIP + " ", "ASSISTANT: " + C + EOS, C + "\n\n", "ASSISTANT:", BOS),
    ),
    "solar": (
        "first",
        ("<s>", "</s>"),
        (),
        LOOP + "### {{ m.role | capitalize }}:\n" + C + "\n\n" + END + GEN + "### Assistant:\n" + FI,
    ),
    "alpaca": (
        "prepend",
        ("<s>", "</s>"),
        (),
        roles("### Instruction:\n" + C + "\n\n", "### Response:\n" + C + "\n\n", C + "\n\n", "### Response:\n"),
    ),
    "starchat": (
        "bytes",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        (),
        LOOP + "<|{{ m.role }}|>\n" + C + "<|end|>\n" + END + GEN + "<|assistant|>" + FI,
    ),
    "exaone": (
        "bytes",
        ("[BOS]", "[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]"),
        (),
        LOOP
        + "[|{{ m.role }}|]"
        + C
        + "{{ '\n' if m.role == 'user' else '[|endofturn|]\n' }}"
        + END
        + GEN
        + "[|assistant|]"
        + FI,
    ),
    "minicpm": (
        "unigram",
        ("<s>", "</s>", "<用户>", "<AI>"),
        (),
        roles("<用户>" + STRIP, "<AI>" + STRIP, C, "<AI>", BOS),
    ),
    "nemotron": (
        "unigram",
        ("<s>", "</s>", "<extra_id_0>", "<extra_id_1>"),
        (),
        roles(
            "<extra_id_1>User\n" + STRIP + "\n",
            "<extra_id_1>Assistant\n" + STRIP + "\n",
            "<extra_id_0>System\n" + STRIP + "\n",
            "<extra_id_1>Assistant\n",
        ),
    ),
    "hunyuan": (
        "bytes",
        ("<｜hy_begin｜>", "<｜hy_end｜>"),
        ("<｜hy_User｜>", "<｜hy_Assistant｜>"),
        roles("<｜hy_User｜>" + C, "<｜hy_Assistant｜>" + C + EOS, C, "<｜hy_Assistant｜>", BOS),
    ),
    "harmony": (
        "bytes",
        ("<|endoftext|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>"),
        (),
        LOOP
        + "<|start|>{{ m.role }}{{ '<|channel|>final' if m.role == 'assistant' else '' }}<|message|>"
        + C
        + "<|end|>"
        + END
        + GEN
        + "<|start|>assistant"
        + FI,
    ),
    "lfm": ("bytes", ("<|startoftext|>", *IM[1:]), (), chatml(first=BOS)),
    "ernie": (
        "unigram",
        ("<s>", "</s>", "<|begin_of_sentence|>", "<|end_of_sentence|>"),
        (),
        roles(
            "User: " + C + "\n",
            "Assistant: " + C + "<|end_of_sentence|>",
            C + "\n",
            "Assistant: ",
            "<|begin_of_sentence|>",
        ),
    ),
    "arctic": ("first", ("<s>", "</s>", *IM[1:]), (), chatml(first=BOS)),
    "seed": (
        "bytes",
        ("<seed:bos>", "<seed:eos>"),
        ("<seed:think>",),
        LOOP + BOS + "{{ m.role }}\n" + C + EOS + END + GEN + BOS + "assistant\n" + FI,
    ),
    "persimmon": ("unigram", ("<s>", "</s>"), (), roles("human: " + C + "\n\nadept:", C + EOS, C + "\n", "")),
    "bare": ("bytes", ("<|endoftext|>",), (), LOOP + C + EOS + END),
    "bare, one space": ("prepend", ("<s>", "</s>"), (), LOOP + "{{ ' ' if loop.index0 else '' }}" + C + END + EOS),
}


@cache
def tokenizer(name: str):
    """Return the tokenizer of that shape, trained on the licence's text: the same on every machine and Python."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    kind, special, plain, template = SHAPES[name]
    words = (ROOT / "LICENSE").read_text(encoding="utf-8").split("\n")
    if kind == "bytes":
        rust = Tokenizer(models.BPE())
        rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        rust.train_from_iterator(
            words, trainers.BpeTrainer(vocab_size=500, show_progress=False, initial_alphabet=alphabet)
        )
    elif kind == "unigram":
        rust = Tokenizer(models.Unigram())
        rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=500, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>"
        )
        rust.train_from_iterator(words, trainer)
    else:
        rust = Tokenizer(models.BPE())
        rust.normalizer = normalizers.Prepend("▁")
        trainer = trainers.BpeTrainer(
            vocab_size=700, show_progress=False, special_tokens=["<unk>", *(f"<0x{n:02X}>" for n in range(256))]
        )
        rust.train_from_iterator((word for line in words for word in line.split()), trainer)
        learned = json.loads(rust.to_str())["model"]
        merges = [tuple(pair) for pair in learned["merges"]]
        rust = Tokenizer(
            models.BPE(vocab=learned["vocab"], merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )
        if kind == "first":
            rust.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        else:
            rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        rust.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    sides = [(text, "") if isinstance(text, str) else text for text in special]
    rust.add_special_tokens(
        [AddedToken(text, lstrip="l" in side, rstrip="r" in side, special=True) for text, side in sides]
    )
    rust.add_tokens([AddedToken(text, normalized=False, special=False) for text in plain])
    names = [text for text, _ in sides]
    tok = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        bos_token=names[0],
        eos_token=names[min(1, len(names) - 1)],
        clean_up_tokenization_spaces=False,
    )
    tok.chat_template = template
    return tok
