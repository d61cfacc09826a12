# SPDX-License-Identifier: GPL-2.0-only
"""Mutants: small changes to C sources, each of which a test has to notice."""

import re
from collections import Counter
from dataclasses import dataclass

from vbalguest.cache import hash_of

FUNCTION = re.compile(r"^(?:\w[\w\s*]*?[\s*])?(\w+)\(")
# Said to people or to tracing, or to the compiler: nobody has promised it.
SAID = re.compile(r"\b(trace_\w+|dev_\w+|pr_\w+|WARN_ON_ONCE|WARN_ONCE|lockdep_\w+|static_assert|"
                  r"MODULE_\w+|module_param\w*)\(")
CALL = re.compile(r"^\t+(\w+)\([^{}]*\);$")
STATEMENT = re.compile(r"^\t+(?!return\b|goto\b|break\b|continue\b|else\b|case\b)\w[^{}]*;$")
DECLARATION = re.compile(r"^\t+(const |static |struct |enum |unsigned |int |long |bool |u\d+ |s64 |"
                         r"size_t |gfp_t |char |LIST_HEAD|DECLARE_|void )")
TURNED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
COMPARISON = re.compile(r"(?<= )(<=|>=|==|!=|<|>)(?= )")
LOCKS = {"mutex_lock": "mutex_unlock", "spin_lock": "spin_unlock",
         "spin_lock_irq": "spin_unlock_irq", "spin_lock_irqsave": "spin_unlock_irqrestore"}
WAKES = re.compile(r"^\t+(wake_up\w*|queue_\w*work|mod_delayed_work|vbal_size_wake|vbal_vq_notify|"
                   r"vbal_work_again|virtqueue_notify)\(")
WEAKER = {"smp_store_release(": "WRITE_ONCE(*", "smp_load_acquire(": "READ_ONCE(*",
          "smp_store_mb(": "WRITE_ONCE("}
COUNTS = re.compile(r"^\t+(\w[^=;]*(\+\+|--)|[^=;]+ [+-]= [^;]*|"
                    r"atomic_long_(add|sub|inc|dec)\(.*\)|"
                    r"WRITE_ONCE\([^,]+, *[^,]* [+-] [^,]*\));$")


@dataclass(frozen=True)
class Mutant:
    """One change: a source with some lines replaced."""

    name: str  # file:function:kind:n, which stays as long as the function does
    line: int
    before: str
    after: str
    text: str  # of the whole file

    @property
    def file(self):
        return self.name.split(":")[0]

    @property
    def kind(self):
        return self.name.split(":")[2]


def code_lines(text):
    """Yield number, line and function of each line of code within a function."""
    function, comment = None, False
    for number, line in enumerate(text.split("\n")):
        if comment or line.lstrip().startswith(("/*", "*")):
            comment = "*/" not in line
            continue
        match = FUNCTION.match(line)
        if match and not line.endswith(";"):
            function = match[1]
        elif line == "}":
            function = None
        elif function and line.startswith("\t") and "/*" not in line:
            yield number, line, function


def turned(line):
    """Yield the line with one of its comparisons turned."""
    for match in COMPARISON.finditer(line):
        yield "comparison", line[:match.start()] + TURNED[match[1]] + line[match.end():]


def off_by_one(line):
    """Yield the line with a bound that is off by one, or the other of two bounds."""
    for match in re.finditer(r" [+-] 1(?=[;),\]]| [^<>*/%&|+-])", line):
        yield "bound", line[:match.start()] + line[match.end():]
    for match in re.finditer(r"\b(min|max)(_t)?\(", line):
        other = "max" if match[1] == "min" else "min"
        yield "bound", line[:match.start()] + other + (match[2] or "") + "(" + line[match.end():]
    for match in re.finditer(r"\b(\w+) = 0; ", line):
        yield "bound", line[:match.start()] + match[1] + " = 1; " + line[match.end():]


def negated(line):
    """Yield the line with its condition negated, or half of it left out."""
    match = re.match(r"(\t+(?:\} else )?if \()(.*)(\)(?: \{)?)$", line)
    if not match or match[2].count("(") != match[2].count(")"):
        return
    yield "condition", f"{match[1]}!({match[2]}){match[3]}"
    parts = re.split(r" (?:&&|\|\|) ", match[2])
    if len(parts) == 2 and all(part.count("(") == part.count(")") for part in parts):
        for part in parts:
            yield "condition", match[1] + part + match[3]


def swallowed(line):
    """Yield the line with an error that nobody hears of."""
    match = re.match(r"(\t+return )(-E[A-Z]+|ret|err)(;)$", line)
    if match:
        yield "error", match[1] + "0" + match[3]
    if re.match(r"\t+goto err\w*;$", line):
        yield "error", re.sub(r"goto err\w*", "(void)0", line)


def left_out(line):
    """Yield the line's kind, without the line."""
    indent = re.match(r"\t*", line)[0]
    if DECLARATION.match(line):
        return
    if WAKES.match(line) and line.endswith(";"):
        yield "wake-up", f"{indent};"
    elif COUNTS.match(line):
        yield "count", f"{indent};"
    elif CALL.match(line) and CALL.match(line)[1] not in (*LOCKS, *LOCKS.values()):
        yield "call", f"{indent};"
    elif re.match(r"\t+[\w>.\[\]-]+(->|\.|\])\w* = ", line) and line.endswith(";"):
        yield "assignment", f"{indent};"


def barriers(line):
    """Yield the line without its barrier."""
    for strong, weak in WEAKER.items():
        if strong in line:
            yield "barrier", line.replace(strong, weak)
    if re.match(r"\t+smp_(mb|rmb|wmb)\w*\(\);$", line):
        yield "barrier", ";"


LINE_CHANGES = (turned, off_by_one, negated, swallowed, left_out, barriers)


def exchanged(lines, numbers):
    """Yield the numbers of two neighbouring statements that can be exchanged, and both lines."""
    for number in numbers:
        pair = lines[number:number + 2]
        if (len(pair) == 2 and number + 1 in numbers and pair[0] != pair[1] and
                all(STATEMENT.match(line) and not DECLARATION.match(line) and
                    not SAID.search(line) for line in pair) and
                len(re.match(r"\t*", pair[0])[0]) == len(re.match(r"\t*", pair[1])[0]) and
                all(CALL.match(line) for line in pair) and begins_statement(lines, number)):
            yield number, pair


def begins_statement(lines, number):
    """Return whether a line is not the rest of the one before, nor the body of an if."""
    before = lines[number - 1].rstrip()
    return before.endswith((";", "{", "}", ":", "*/")) or not before


def unlocked(lines, numbers):
    """Yield the numbers of the lines that take and release a lock, once each in a function."""
    taken = [(number, match) for number in numbers
             if (match := re.match(r"\t+(\w+)\(([^,)]+)", lines[number])) and match[1] in LOCKS]
    for number, match in taken:
        release = re.compile(rf"\t+{LOCKS[match[1]]}\({re.escape(match[2])}[,)]")
        releases = [other for other in numbers if release.match(lines[other])]
        if releases:
            yield number, releases


def functions(text):
    """Return function -> numbers of its lines of code."""
    found = {}
    for number, _, function in code_lines(text):
        found.setdefault(function, []).append(number)
    return found


def changes(lines, numbers):
    """Yield kind, first line's number, before, after and the changed lines of one function."""
    for number in numbers:
        line = lines[number]
        if SAID.search(line):
            continue
        for change in LINE_CHANGES:
            if change is left_out and not begins_statement(lines, number) and \
                    not re.match(r"\t+(if|for|while|else)\b.*", lines[number - 1]):
                continue
            for kind, after in change(line):
                yield kind, number, line, after, {number: after}
    for number, (first, second) in exchanged(lines, set(numbers)):
        yield ("order", number, f"{first} {second.strip()}", f"{second} {first.strip()}",
               {number: second, number + 1: first})
    for number, releases in unlocked(lines, numbers):
        yield ("lock", number, lines[number], "", {other: ";" for other in (number, *releases)})


def mutants(file, text):
    """Return all mutants of a file's text."""
    lines = text.split("\n")
    found = []
    for function, numbers in functions(text).items():
        count = Counter()
        for kind, number, before, after, replaced in changes(lines, numbers):
            count[kind] += 1
            new = [replaced.get(i, line) for i, line in enumerate(lines)]
            found.append(Mutant(f"{file}:{function}:{kind}:{count[kind]}", number + 1,
                                before.strip(), after.strip(), "\n".join(new)))
    return found


def sample(every, size, seed):
    """Choose so many, of each kind in turn; a larger sample holds the smaller ones.

    By a hash of its name a mutant stays chosen as others come and go with the driver's code.
    """
    kinds = {}
    for mutant in sorted(every, key=lambda mutant: hash_of([seed, mutant.name])):
        kinds.setdefault(mutant.kind, []).append(mutant)
    rounds = [(place, kind, mutant) for kind, of_kind in kinds.items()
              for place, mutant in enumerate(of_kind)]
    rounds.sort(key=lambda entry: entry[:2])
    return [mutant for *_, mutant in rounds[:size]]
