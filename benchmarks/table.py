"""bench.json as Markdown: the numbers against their targets, then all ratios, then all timings."""

from benchmarks import results


def markdown(document):
    """Return the tables of a bench.json."""
    parts = document["parts"]
    lines = ["| number | measured | target | measured on | |", "|---|---|---|---|---|"]
    for name, (letter, target, side) in results.NUMBERS.items():
        part = parts.get(letter)
        value = document.get(name)
        wanted = "{} {:g}".format(side, target) if target else ""
        if part is None:
            lines.append("| `{}` | not measured | {} | | |".format(name, wanted))
            continue
        met = "" if not target or value is None else "met" if (value >= target if side == "at least" else value <= target) else "**missed**"
        shown = "{:.3g}".format(value) if value is not None else "null: {}".format(part["reasons"].get(name, "not measured").splitlines()[0])
        lines.append("| `{}` | {} | {} | {}{} | {} |".format(name, shown, wanted, part["date"], ", quick" if part["options"]["quick"] else "", met))
    for _, part in sorted(parts.items()):
        others = sorted((name, value) for name, value in part["numbers"].items() if name not in results.NUMBERS and value is not None)
        lines += ["| `{}` | {:.3g} | | {} | |".format(name, value, part["date"]) for name, value in others]
    lines += ["", "| part | ratio | median | quartiles |", "|---|---|---|---|"]
    for letter, part in sorted(parts.items()):
        lines += ["| {} | {} | {:.3g} | {:.3g} … {:.3g} |".format(letter, row["what"], row["median"], *row["quartiles"]) for row in part["ratios"]]
    lines += ["", "| part | timing | median | quartiles | unit |", "|---|---|---|---|---|"]
    for letter, part in sorted(parts.items()):
        for row in part["timings"]:
            lines.append(
                "| {} | {} | {:.4g} | {:.4g} … {:.4g} | {} |".format(letter, row["what"], row["median"], *(row["quartiles"] + [row["unit"]]))
            )
    lines.append("")
    for letter, part in sorted(parts.items()):
        facts, versions = part["machine"], part["versions"]
        sizes = ", ".join(["{} px, width {:g}".format(part["options"]["size"], part["options"]["width"])] + part["options"]["set"])
        stacks = "; ".join("TensorFlow {tensorflow} on Python {python}".format(**found) for found in versions.values())
        text = "Part {}: {}, {}, {} cores, {} GB, load {} at its start; {}; {}."
        lines.append(
            text.format(
                letter,
                part["date"],
                facts.get("cpu", facts["system"]),
                facts["cores"],
                facts.get("memory_gb", "?"),
                facts["load_average"][0],
                stacks,
                sizes,
            )
        )
    return "\n".join(lines)
