"""What may go with the fall of a batch: each feature with its name and definition, as pages and reports say them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Feature:
    """A figure that every batch has. control: it is held fixed while the others are looked at."""

    key: str
    name: str
    what: str
    control: bool = False


FEATURES = (
    Feature(
        "loss_first",
        "loss at the first visit",
        "Loss of the batch before the model first learned from it. A batch that starts high can fall further, and one "
        "that started high by chance comes back by itself (regression to the mean): a relation with the fall is "
        "expected and explains nothing.",
        control=True,
    ),
    Feature(
        "step_first",
        "step of the first visit",
        "How late in the first epoch the batch came: later, the model had already learned from other batches.",
        control=True,
    ),
    Feature(
        "step_last",
        "step of the last visit",
        "How late in the last complete epoch the batch came: later, the model had learned from more batches.",
        control=True,
    ),
    Feature(
        "max_abs_risk_diff",
        "largest |risk_diff|",
        "Largest |risk_diff| of any expert in the batch. Noise alone makes it large where prompts are few or short.",
    ),
    Feature(
        "risk_above_floor",
        "|risk_diff| above the noise floor",
        "Largest |risk_diff| in the batch less the batch's noise floor: what shuffled labels do not reach.",
    ),
    Feature(
        "set_abs_risk_diff",
        "|risk_diff| of the set's experts",
        "Mean |risk_diff|, in the batch, of the experts in the training's expert set.",
    ),
    Feature(
        "set_load",
        "load of the set's experts",
        "Share of the batch's counted tokens' expert places that the set's experts took, over the layers they are in.",
    ),
    Feature("share_unsafe", "share of unsafe prompts", "Unsafe prompts of the batch over all its prompts."),
    Feature("n_samples", "number of prompts", "Prompts in the batch. Often equal in all batches but the last."),
    Feature("n_groups", "number of groups", "Different topics or contrast pairs in the batch, where the set has them."),
    Feature("n_sources", "number of sources", "Different sources in the batch, where the prompt set names them."),
    Feature("prompt_tokens", "prompt length", "Mean number of prompt tokens, as they were fed to the model."),
    Feature("answer_tokens", "answer length", "Mean number of answer tokens that the loss is taken over."),
)
"""Every feature, the controls first. All are about the untrained model or the prompts: none is measured after it."""

BY_KEY = {feature.key: feature for feature in FEATURES}
CONTROLS = {"fall": ("loss_first", "step_first", "step_last"), "loss": ("step_first",)}
"""What is held fixed, for each outcome."""
