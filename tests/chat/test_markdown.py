"""helpers.chat.markdown: whatever the text, its HTML has only these elements, attributes and addresses."""

import re
from xml.etree.ElementTree import Element

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from payloads import PAYLOADS
from strategies import ALLOWED, BITS, MATHML, Found

from helpers.chat import formula
from helpers.chat.formula import to_mathml
from helpers.chat.markdown import render, render_draft


def links(html: str) -> list[str]:
    return [attrs["href"] for tag, attrs in Found(html).tags if tag == "a"]


def check(text: str) -> str:
    html = render(text)
    assert Found(html).forbidden == [], f"{text!r} became {html!r}"
    html.encode()  # it can be sent
    return html


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_hostile_text_is_shown_as_text(payload):
    check(payload)
    check(f"before\n\n{payload}\n\nafter")
    check(f"- item\n\n  {payload}\n")
    check(f"> {payload}")
    check(f"| a | b |\n|---|---|\n| {payload} | x |")
    check(f"**{payload}** [{payload}](https://example.org) `{payload}`")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_prefix_of_a_hostile_text_does_anything(payload):
    for end in range(len(payload)):
        check(payload[:end])


CHARACTERS = st.characters(codec=None)  # halves of surrogate pairs too


@given(st.text(CHARACTERS) | st.lists(st.sampled_from(BITS) | st.text(CHARACTERS, max_size=3)).map("".join))
@example("\ud83d half of a pair")
@example("[x](\ud83d)")
def test_any_text_becomes_safe_html(text):
    check(text)


@given(st.text())
def test_letters_and_digits_are_kept(text):
    """Letters and digits of the text come through, in order."""
    words = "".join(re.findall(r"[A-Za-z0-9]+", text))
    assert "".join(re.findall(r"[A-Za-z0-9]+", Found(check(f"x{words}")).text)) == f"x{words}"


@pytest.mark.parametrize(
    "part",
    [
        "\\[",
        "\\[\n",
        "\\(a",
        "$$",
        "$a",
        "a|b\n-|-\n",
        "[",
        "![",
        "*",
        "*a ",
        "`a",
        "<",
        "> ",
        "- ",
        "[a](",
        "~~a",
        "<!--",
        "_a ",
        "**__",
        "&#1;",
        "\\",
        "```\n",
    ],
)
def test_deep_nesting_neither_fails_nor_hangs(part):
    check(part * 3000)


@pytest.mark.parametrize(
    "address", ["https://example.org/a?b=1&c=%20#d", "http://example.org", "mailto:me@example.org"]
)
def test_a_link_opens_in_a_new_tab(address):
    (tag, attrs), *_ = [found for found in Found(render(f"[x]({address})")).tags if found[0] == "a"]
    assert attrs == {"href": address, "target": "_blank", "rel": "noopener noreferrer"}
    assert links(f"<p>{render(f'<{address}>')}</p>") == [address]


@pytest.mark.parametrize(
    "address", ["javascript:x", "data:text/html,x", "//example.org", "/lab", "#top", "ftp://x.yz", "x"]
)
def test_any_other_link_is_text(address):
    html = render(f"see [this *one*]({address}).")
    assert links(html) == [] and Found(html).text == "see this one."


def test_an_image_is_its_alternative_text():
    assert Found(render("![a cat](https://example.org/cat.png 'Cat')")).text == "a cat"


def test_code_has_colours_and_keeps_its_text():
    code = "\ndef f(x):\n\n    return x < 1 & 2  # 'ü' \"\n\n"
    for language in "python", "Python", "no-such-language", "", "{.python", '"><b>':
        found = Found(check(f"```{language}\n{code}```"))
        assert "".join(found.words).strip("\n") == code.strip("\n")
        assert any(tag == "span" for tag, _ in found.tags) == (language.lower() == "python")


DOCUMENT = """# Title

Text with **bold**, *slanted*, `code`, ~~gone~~ and [a link](https://example.org).
A second line.

- one
  - two
1. three

> quoted

```python
print("x")
```

| a | b |
|:--|--:|
| 1 | 2 |

---
The end.
"""


def test_markdown_is_rendered():
    assert {tag for tag, _ in Found(check(DOCUMENT)).tags} == set(ALLOWED) - set(MATHML.split()) - {
        *("h4", "h5", "h6", "details", "summary")
    }


ROWS = [("short", "| 3 |", ["3", ""]), ("long", "| 3 | 4 | 5 |", ["3", "4 | 5"]), ("empty", "|", ["", ""])]
ROWS += [("half-written", "| 3", ["3", ""]), ("half-written", "| 3 | 4", ["3", "4"]), ("whole", "|3|4|", ["3", "4"])]
ROWS += [("escaped", r"| 3 \| 4 | 5 \|", ["3 | 4", "5 |"])]


@pytest.mark.parametrize("row, cells", [row[1:] for row in ROWS], ids=[f"{name} {row}" for name, row, _ in ROWS])
@pytest.mark.parametrize("after", ["", "\n", "\n\nafter", "\n| 6 | 7 |"])
def test_a_row_of_any_length_leaves_a_table_a_table(row, cells, after):
    html = check(f"| a | b |\n|:--|---|\n| 1 | 2 |\n{row}{after}")
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html)
    assert found == ["a", "b", "1", "2", *cells, *(["6", "7"] if "6" in after else [])]
    assert html.count("<table>") == 1 and html.count("<p>") == after.count("after")


def test_a_table_without_outer_bars_may_have_long_rows_and_one_that_is_being_written():
    html = check("a | b\n--|--\n1 | 2 | 3\n4 |\n\nafter")
    assert re.findall(r"<td>(.*?)</td>", html) == ["1", "2 | 3", "4", ""] and Found(html).text.endswith("after")


@pytest.mark.parametrize("text", ["| a | b |\n|---|\n| 1 | 2 |", "| a | b |\n| 1 | 2 |", "a | b\n---", "|a|\n---"])
def test_what_lacks_a_delimiter_row_is_no_table(text):
    assert "<table>" not in check(text)


@given(st.lists(st.lists(st.text("ab1\\|*`$[(", max_size=4), max_size=4), max_size=4), st.integers(1, 3), st.booleans())
def test_no_word_of_a_table_is_lost(rows, columns, bars):
    outer = "|" if bars else ""
    lines = ["|".join("h" * columns), "|".join(["---"] * columns), *("|".join(row) for row in rows)]
    text = "\n".join(f"{outer}{line}{outer}" for line in lines)
    assert "".join(re.findall("[ab1]", Found(check(text)).text)) == "".join(re.findall("[ab1]", text))


FORMULAS = {
    r"The area is \(\pi r^2\).": "The area is πr2.",
    r"\[ x_1 = \frac{a}{b} \]": "x1=ab",
    r"\(a_1 * b_2 * c\) and \(\{x, y\}\)": "a1*b2*c and {x,y}",
    r"$\{x_1\}$ * $y_1$": "{x1} * y1",
    r"$$ \text{<b>&x} $$": "<b>&x",
    r"\(f(x) [y] <z>\)": "f(x)[y]<z>",
}


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_mathml(text):
    for around in ("{}", "- {}", "> {}", "| a |\n|---|\n| {} |"):
        html = check(around.format(text))
        assert "<math" in html and FORMULAS[text] in "".join(Found(html).text.split("\n")).replace(" a  ", "")


NO_FORMULAS = [
    r"\[ not yet written",
    r"an \(open one",
    r"an end\) alone",
    r"\(a_b_c\)",
    r"\(\frac{a\)",
    r"\(\left( a\)",
]
NO_FORMULAS += [r"\(\def\x{yyy}\x\)", r"\(\newcommand{\a}{b}\)", r"\(\renewcommand\a{b}\)", r"\(\let\a\b\)"]


@pytest.mark.parametrize("text", NO_FORMULAS)
def test_what_is_no_latex_keeps_its_signs(text):
    html = check(text)
    assert Found(html).text == text and "<math" not in html


HOSTILE = [r"\text{%s}", r"\mbox{%s}", r"\href{javascript:window.__xss=1}{%s}", r"\style{background:url(//x)}{%s}"]
HOSTILE += [
    r"\class{jp-Cell}{%s}",
    r"\color{%s}{x}",
    r"\operatorname{%s}",
    r"\hspace{%s}",
    r"\verb|%s|",
    r"\tag{%s}",
    "%s",
]
HOSTILE += [
    r"\fcolorbox{%s}{red}{x}",
    r"\begin{array}{%s}a\end{array}",
    r"\rule{%s}{1em}",
    r"\unicode{%s}",
    r"\url{%s}",
]
HOSTILE += [r"\includegraphics{%s}", r"\genfrac{%s}{%s}{0pt}{}{a}{b}", r"\xrightarrow[%s]{x}", r"\id{%s}{x}", r"\%s"]
INSIDE = ["<img src=x onerror=y>", "&lt;script&gt;y&lt;/script&gt;", "&#60;img src=x onerror=y&#62;", '"onclick="y']
INSIDE += ["javascript:y", "</mtext></math><img src=x onerror=y>", "<!--", "&quot;>", "\u202e<b>", "\0<b>"]


@pytest.mark.parametrize("tex", HOSTILE)
@pytest.mark.parametrize("inside", INSIDE)
def test_hostile_latex_is_shown_as_text(tex, inside):
    words = tex.replace("%s", inside)
    for text in (f"\\({words}\\)", f"$$ {words} $$", f"a ${words}$ b", f"\\[\n{words}\n\\]"):
        check(text)


@given(
    st.lists(st.sampled_from([*BITS, "\\", "{", "}", "^", "_", "\\text{", "\\frac", "\\begin{matrix}", "x"])).map(
        "".join
    )
)
def test_any_latex_becomes_safe_html(tex):
    mathml = to_mathml(tex, True) or ""
    assert Found(mathml).forbidden == []
    check(f"$$ {tex} $$")


@pytest.mark.parametrize(
    "part", ["\\sqrt", "\\frac", "x^{", "\\left(", "\\begin{matrix}", "a_1", "{", "'", "\\overline"]
)
def test_long_latex_neither_fails_nor_hangs(part):
    closing = "}" * part.count("{") if "begin" not in part else ""
    for n in (10, 200, 600):
        check(f"$$ {part * n} 1 {closing * n} $$")


@pytest.mark.parametrize(
    "text, shown",
    [
        (r"costs \$5 or \*more\*", "costs $5 or *more*"),
        ("costs $5 **or** $6", "costs $5 or $6"),
        ("costs US$5 *to* US$6", "costs US$5 to US$6"),
        ("`\\(a\\)` and `$b$`", "\\(a\\) and $b$"),
        ("```\n\\[ a \\]\n```", "\\[ a \\]"),
        (r"\[a](https://example.org)", r"\[a](https://example.org)"),
    ],
)
def test_what_is_no_formula_is_markdown(text, shown):
    assert Found(check(text)).text == shown


def test_complete_blocks_do_not_change_while_the_rest_is_streamed():
    """So there is no flicker above the cursor."""
    for end in range(len(DOCUMENT)):
        html = check(DOCUMENT[:end])
        done = render(DOCUMENT[:end].rpartition("\n\n")[0])
        assert html.startswith(done[:-19]), DOCUMENT[:end]


STREAMED = r"""Text \(a^2\), $x_1$ or $f(x)$; it costs $5 or $6.

- [ ] one
- [x] two $y$

\[ x = \frac{a}{b} \]

Here:
| a | b |
|---|:-:|
| 1 | \(\pi\) |

```py
def f(): pass
```

$$ \sum_i i $$

~~~
\( | `` $z
~~~
The end.
"""
RAW = ["|", "`", "\\", "---", "frac", "$x", "$f", "$y", "$$", "sum", "py\n", "~", "^"]


def test_no_half_written_table_fence_or_formula_is_shown_as_text():
    code = STREAMED.index("~~~") + 4
    for end in range(code):
        html = render_draft(STREAMED[:end])
        assert Found(html).forbidden == []
        shown = Found(html).text
        assert [raw for raw in RAW if raw in shown] == [], STREAMED[:end]
    for end in range(code, len(STREAMED)):
        shown = "".join(Found(render_draft(STREAMED[:end])).words)
        assert STREAMED[code:end].split("\n")[0] in shown, "nothing in code is held back"
    assert render_draft(STREAMED) == render(STREAMED)


@pytest.mark.parametrize(
    "text", ["costs $5 and", "$HOME", "a\\", "|", "| a", "a | b\n--|", "```", "``", "`x` $y", "\\(", "$"]
)
def test_the_end_of_a_draft_becomes_safe_html(text):
    assert Found(render_draft(text)).forbidden == []
    assert "5" not in text or "$5 and" in render_draft(text)


@given(st.lists(st.sampled_from([*BITS, "$", "\\(", "\\)", "\\[", "\\]", "~~~", "x"])).map("".join))
def test_any_draft_becomes_safe_html(text):
    assert Found(render_draft(text)).forbidden == []


def test_a_task_list_has_signs():
    assert Found(check("- [ ] one\n- [x] two")).text.split("\n") == ["☐ one", "☑ two"]


def test_a_bare_address_is_a_link():
    assert links(check("See https://example.org/a_b*c, or <https://x.yz>.")) == [
        "https://example.org/a_b*c",
        "https://x.yz",
    ]
    assert links(check("`https://example.org` and javascript://x.yz")) == []


def test_long_code_is_folded_and_names_its_language():
    short, long = (check(f"```py\n{'x = 1' + chr(10):s}" * 1 + "y\n" * (lines - 1) + "```") for lines in (59, 200))
    assert "<details>" not in short and 'data-language="Python"' in short
    assert "<summary>200 lines</summary>" in long
    assert all('data-language=""' in check(f"```{name}\nx\n```") for name in ("", "nonsense", "text"))


@pytest.mark.parametrize("level", range(1, 7))
def test_a_heading_is_smaller_than_those_of_the_page(level):
    assert render(f"{'#' * level} A *word*").strip() == (
        f"<h{min(level + 2, 6)}>A <em>word</em></h{min(level + 2, 6)}>"
    )


def test_indented_code_is_code():
    found = Found(check("before\n\n    x < 1\n\n        y\n\nafter"))
    assert [tag for tag, _ in found.tags] == ["p", "div", "button", "pre", "code", "p"]
    assert "x < 1\n\n    y\n" in found.text


def test_options_after_the_language_are_ignored():
    assert render("```python title=x\nprint(1)\n```") == render("```python\nprint(1)\n```")


def test_empty_lines_at_the_ends_of_code_are_kept():
    for language in ("python", "none-of-that-name"):
        assert "".join(Found(render(f"```{language}\n\n\nx\n\n```")).words).startswith("\n\nx\n\n")


def test_a_list_whose_first_item_is_to_come_is_no_heading():
    assert "<h" not in render("Some reasons:\n-") + render("> Some reasons:\n> -") + render("- Some reasons:\n  -")


def test_line_breaks_are_kept():
    assert render("Roses are red\nViolets are blue").count("<br />") == 1
    assert Found(render("<div>\n  <b>x</b>\n</div>")).text == "<div>\n  <b>x</b>\n</div>"
    html = check("before\n\n<div>\n<b>x & y</b>\n</div>\n\n\nafter")
    assert html.count("<br />") == 2 and html.count("<p>") == html.count("</p>") == 3
    assert Found(html).text.split() == ["before", "<div>", "<b>x", "&", "y</b>", "</div>", "after"]


def test_an_element_that_is_not_mathml_is_left_out(monkeypatch):
    """As a later version of the library may make one."""
    math, script = Element("math", {"onclick": "y"}), Element("script", {"src": "//x.yz"})
    math.append(script)
    script.text = "a < b"
    monkeypatch.setattr(formula.Converter, "convert_to_element", lambda *_: math)
    assert to_mathml("anything at all", True) == "<math>a &lt; b</math>"
