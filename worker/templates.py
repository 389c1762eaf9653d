"""Chat templates: programs that come with a model. Rendered in the sandbox of transformers, within limits of our own.

The sandbox keeps a template from touching anything; it does not keep one from running for a year or filling the memory.
"""

from collections.abc import Sequence

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from backend.domain.errors import InvalidInput, NotSupported
from worker.limits import LimitReached, limited

SECONDS = 5.0
MEMORY = 512 * 2**20
MAX_TEMPLATE = 2**20
"""Characters of a template's own text."""
ROOM, GROWTH = 200_000, 8
"""A prompt may be ROOM characters longer than GROWTH times what its messages say."""

Chat = list[dict[str, str]]
_PROBES: Sequence[Chat] = (
    [{"role": "user", "content": "Hi there"}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi there"}],
)


def render(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> str:
    """Return a chat as the template writes it, with the generation prompt.

    Raises InvalidInput where the template refuses the messages, or takes more time, memory or room than it may.
    """
    try:
        with limited(SECONDS, MEMORY):
            text = str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
    except LimitReached as error:
        raise InvalidInput(f"The model's chat template was stopped: it used {error} on one prompt.") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        roles = ", ".join(m["role"] for m in chat)
        raise InvalidInput(
            f"The model's chat template refuses a prompt with the roles {roles}: {str(error)[:300]}. "
            "Leave the system prompt away or change the messages.",
            ("messages",),
        ) from error
    most = ROOM + GROWTH * sum(len(m["content"]) for m in chat)
    if len(text) > most:
        raise InvalidInput(f"The model's chat template makes {len(text)} characters of one prompt; {most} are allowed.")
    return text


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise NotSupported for a template that exceeds its limits already on a greeting.

    One that only refuses some roles is not judged here: which roles there are, the prompts decide.
    """
    template = tokenizer.chat_template
    if not template:
        return
    texts = [template] if isinstance(template, str) else list(template.values())
    if sum(map(len, texts)) > MAX_TEMPLATE:
        raise NotSupported(f"The model's chat template is longer than {MAX_TEMPLATE} characters.")
    for probe in _PROBES:
        try:
            render(tokenizer, probe)
        except InvalidInput as error:
            if not error.loc:  # a limit, not a refusal of these messages
                raise NotSupported(str(error)) from error
