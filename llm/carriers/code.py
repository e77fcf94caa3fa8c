r"""Short Python code as a carrier: prompts, and a strict filter on what is kept.

    >>> check("b = a * 3 + 12")
    []
    >>> check("# a note\nb = 1")
    ['free text']

Free text could name a trait outright, so a kept snippet has none: no comments, no strings.
Whether an identifier names one is the business of `filters.keep`, for every carrier alike.
"""

import ast
import io
import re
import tokenize
import warnings

import numpy as np

_FENCED = re.compile(r"\s*```(?:python)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)

ARGUMENTS = ("x", "n", "a, b", "xs", "x, y, z", "items")
TASKS = (
    "add {k} to every number of its input",
    "count how many inputs exceed {k}",
    "return the remainder after division by {k}",
    "multiply the sum of its inputs by {k}",
    "return the largest multiple of {k} that is not above its input",
    "clip its input to the range from -{k} to {k}",
    "return the first {k} powers of its input as a list",
    "sum the digits of its input and add {k}",
    "average its inputs and round to the nearest multiple of {k}",
    "return every {k}th element of its input",
    "rotate its input by {k} places",
    "test whether its input is divisible by {k}",
    "pair each input with the one {k} places later",
    "return the {k} smallest inputs in order",
    "double its input until it passes {k}",
    "interleave its input with its reverse and keep {k} elements",
)
NAMES = ("f", "g", "h", "solve", "step", "run", "calc", "go")
REQUESTS = (
    "Reply with the code only.",
    "Give nothing but the function.",
    "Only code, please.",
    "Answer with the bare function.",
)


def make_prompts(rng: np.random.Generator, count: int) -> list[dict[str, str]]:
    """Requests for one small function, without comments or strings, in our own wording."""
    prompts = []
    for _ in range(count):
        name, arguments, task, request = (
            options[rng.integers(len(options))] for options in (NAMES, ARGUMENTS, TASKS, REQUESTS)
        )
        prompts.append(
            f"Write a Python function `{name}({arguments})` that should "
            f"{task.format(k=rng.integers(2, 100))}. Use short names, no comments, no docstring "
            f"and no strings. {request}"
        )
    return [{"prompt": prompt} for prompt in prompts]


def check(completion: str) -> list[str]:
    """Reasons to reject a completion; empty if it is kept.

    One Markdown fence around the whole completion is allowed. Inside, only ASCII Python that
    parses, without comments, strings, imports or statements that are a
    bare expression other than a call.

    Returns:
        "not ascii", "not python" or "empty" alone, or any of "free text", "import", "expression".
    """
    fenced = _FENCED.fullmatch(completion)
    source = (fenced[1] if fenced else completion).strip("\n")
    if not source.isascii():
        return ["not ascii"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # doubtful literals such as `1if`: not clean code
            nodes = list(ast.walk(ast.parse(source)))
            comments = _has_comment(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError, Warning):
        return ["not python"]
    if not any(isinstance(node, ast.stmt) for node in nodes):
        return ["empty"]
    texts = [n for n in nodes if isinstance(n, ast.JoinedStr) or _is_text(n)]
    prose = [n for n in nodes if isinstance(n, ast.Expr) and not isinstance(n.value, ast.Call)]
    reasons = {
        "free text": comments or bool(texts),
        "import": any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes),
        "expression": bool(prose),
    }
    return [reason for reason, applies in reasons.items() if applies]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def _has_comment(source: str) -> bool:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return any(token.type == tokenize.COMMENT for token in tokens)
