"""The README.md of an exported encoder: what it is, how good, by which protocol, and how it is used."""

import json
from typing import Any

from selfsup.export.outgoing import Outgoing
from selfsup.storage.untrusted import plain_name


def card(outgoing: Outgoing, loads: str, notes: list[str]) -> str:
    """A model card.

    Args:
        outgoing: what goes out.
        loads: lines of Python that load it and compute its output.
        notes: what a reader has to know beside.
    """
    exported, about = outgoing.exported, outgoing.about
    tags = [
        "self-supervised",
        "contrastive-learning",
        *([str(exported.made_by["method"])] if _method(outgoing) else []),
    ]
    task = "image-classification" if outgoing.classifier else "image-feature-extraction"
    made = ", ".join(
        f"{name} {plain_name(value, 80)}"
        for name, value in exported.made_by.items()
        if isinstance(value, str | int | float) and value != ""
    )
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        f"tags: {json.dumps(tags)}",
        "---",
        "",
        f"# {about['network'][0].upper()}{about['network'][1:]}",
        "",
        f"The {outgoing.part} of an encoder that selfsup trained ({made}). Its {outgoing.output} have "
        f"{_width(outgoing)} dimensions. SHA-256 of its weights in encoder.safetensors: {exported.sha256}.",
        "",
        "```python",
        loads,
        "```",
        "",
        "## Images",
        "",
        f"{exported.feed.transform} pixels; values scaled to [0, 1]; mean {list(exported.feed.mean)}, std "
        f"{list(exported.feed.std)}.",
        *[f"Note: {note}." for note in notes],
        "",
        "## Results",
        "",
        *_results(outgoing.results),
    ]
    if outgoing.class_names:
        lines += ["", "## Classes", "", ", ".join(plain_name(name, 80) for name in outgoing.class_names)]
    return "\n".join([*lines, ""])


def _method(outgoing: Outgoing) -> bool:
    return isinstance(outgoing.exported.made_by.get("method"), str)


def _width(outgoing: Outgoing) -> int:
    return len(outgoing.class_names) or int(outgoing.exported.encoder.feature_dim)


def _results(results: tuple[dict[str, Any], ...]) -> list[str]:
    """A table of figures with the protocol of each; a sentence where there are none."""
    if not results:
        return ["None were recorded of this encoder."]
    lines = ["| evaluation | figure | value | protocol |", "|---|---|---|---|"]
    for result in results:
        protocol = ", ".join(f"{name} {_said(value)}" for name, value in result["protocol"].items())
        for name, value in result["figures"].items():
            lines.append(f"| {_cell(result['stage'])} | {_cell(name)} | {value:.4f} | {_cell(protocol)} |")
    return lines


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return plain_name(text, 1000).replace("|", "\\|")
