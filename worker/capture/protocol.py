"""What every capture engine is given and gives back, whatever runs the model underneath."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from backend.domain.errors import RouteprintError
from backend.domain.measured import MeasuredBatch
from backend.domain.prompts import Message
from backend.domain.vocabulary import Label, Scope
from worker.prompts import EncodedPrompt


class RoutingUnreadable(RouteprintError):
    """What the experts received cannot be counted exactly: the measurement stops rather than guess."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleInput:
    """One sample to measure. answer_ids: int32 [token] with its end token, for scope `response`; None: no answer.

    fed: the prompt as it was fed before, to be fed again; None: what the messages become.
    """

    in_batch_idx: int
    row_idx: int
    row_id: str
    label: Label
    messages: tuple[Message, ...]
    answer_ids: NDArray[np.int32] | None = None
    fed: EncodedPrompt | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TokenRouting:
    """The routing of one row, token by token. place: of its sample in the window, batch after batch.

    ids: int32 [token] as fed. scopes: {scope: bool [token]}, which of them count. chosen: per site, int [token, k].
    """

    place: int
    ids: NDArray[np.int32]
    scopes: Mapping[Scope, NDArray[np.bool_]]
    chosen: Sequence[NDArray[np.integer]]


Observer = Callable[[TokenRouting], None]
"""Sees each row of a window once, in whatever order the engine runs them."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of engines that spread a model over GPUs; the transformers engine has no use for them.

    gpu_memory_utilization: share of each GPU's memory. max_model_len: longest row in tokens; None: what the request
    needs.
    """

    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What an engine is opened for. model: a folder, or `hub:<org>/<name>` where `allow_hub`."""

    model: str
    device: str
    allow_hub: bool = False
    dtype: str = "auto"
    max_length: int = 512
    system_prompt: str | None = None
    exclude_template_tokens: bool = False
    scopes: tuple[Scope, ...] = (Scope.PROMPT,)
    max_new_tokens: int = 0
    options: EngineOptions = EngineOptions()


class BatchKey(Protocol):
    """Which planned batch is measured."""

    @property
    def batch_idx(self) -> int:
        """Position in the plan."""

    @property
    def batch_id(self) -> str:
        """Identity: digest over its ordered samples."""


class Words(Protocol):
    """The tokenizer that makes the prompts of an analysis, and the digests that name it."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer itself."""

    @property
    def tokenizer_digest(self) -> str:
        """SHA-256 of its content."""

    @property
    def template_digest(self) -> str | None:
        """SHA-256 of its chat template; None without one."""


class CaptureEngine(Protocol):
    """Measures a window of consecutive batches; each comes back on its own, samples in the planned order."""

    @property
    def words(self) -> Words:
        """The tokenizer that prompts are encoded with."""

    @property
    def place(self) -> str:
        """The device the model runs on, in words."""

    @property
    def dtype(self) -> str:
        """The number format that the model computes in: `float32`, `bfloat16`, ..."""

    def measure(
        self,
        window: Sequence[BatchKey],
        inputs: Sequence[Sequence[SampleInput]],
        observe: Observer | None = None,
    ) -> list[MeasuredBatch]:
        """Return one MeasuredBatch per batch; show `observe` the routing of single tokens.

        Raises RoutingUnreadable, InvalidInput.
        """

    def answers(self, prompts: Sequence[NDArray[np.int32]], max_new_tokens: int) -> list[NDArray[np.int32]]:
        """Return the greedy answer to each unpadded prompt, its end token included where the model gave one."""

    def close(self) -> None:
        """Give the model's memory back."""
