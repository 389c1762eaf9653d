"""The vLLM engine: vLLM's own routed-experts output, counted; for models that need several GPUs, or many answers.

Every row is fed as token ids (the same ids, so the same `prompt_digest`, as in the transformers engine), one token is
sampled and thrown away, and the experts that each fed token was routed to come back beside it. vLLM reports dense
layers as zeros: only the layers that are routing sites by the model's configuration are read. What comes back is
checked, never repaired. Answers are made first and measured like given ones, so that a resumed analysis measures what
an undisturbed one would. Routing weights are None: vLLM gives none. After: Routing, domain.md, Data 3.
Not covered: pipeline parallelism (refused by vLLM), two routing sites in one layer, layers with different top-k.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, PreTrainedTokenizerBase

from backend.domain.errors import InvalidInput, NotSupported
from backend.domain.measured import MeasuredBatch
from backend.domain.prompts import Message
from backend.domain.vocabulary import Scope, Site
from worker.capture.protocol import BatchKey, EngineRequest, Observer, RoutingUnreadable, SampleInput, Words
from worker.capture.rows import Routed, Row, as_batches, check_sums, encode_known, row_of, token_routing
from worker.capture.tap import N_COUNTED
from worker.models import build_skeleton, load_words, model_source, read_config, usable_sites
from worker.prompts import EncodedPrompt

Ids = NDArray[np.int32]

_ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "1",  # the only one that reports routing; vLLM must say so rather than fall back
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine dies with this process and holds no memory after it
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def why_not(device: str) -> str | None:
    """Say why this process cannot measure with vLLM; None where it can. Imports vLLM, which takes seconds."""
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:  # without an origin it is some folder of that name
        return "vLLM is not installed in this worker's environment (docs/vllm.md)"
    _prepare()
    try:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.triton_utils import HAS_TRITON
    except Exception as error:  # a broken install fails in many ways, and none of them may stop a worker
        return f"vLLM is installed but cannot be imported: {type(error).__name__}: {error}"
    if not hasattr(EngineArgs, "enable_return_routed_experts"):
        return "the installed vLLM has no routed-experts output; version 0.32 has it"
    if device == "cpu" and not current_platform.is_cpu():
        return "this worker is set to the CPU, and the installed vLLM runs on a GPU"
    if not HAS_TRITON:
        return "vLLM's routed-experts output needs Triton, which finds no GPU here"
    return None


def refuses(architecture: str, sites: Sequence[Site]) -> str | None:
    """Say why vLLM cannot measure a model that is supported otherwise; None where it can."""
    if len({site.layer for site in sites}) < len(sites):
        return "it has two routing sites in one layer, and vLLM reports one"
    if len({site.top_k for site in sites}) > 1:
        return "its layers differ in top-k, and vLLM reports one"
    from vllm import ModelRegistry

    return None if architecture in ModelRegistry.get_supported_archs() else "vLLM has no code of its own for it"


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What a model's configuration says its routing looks like. n_layers: hidden layers, dense ones included."""

    sites: tuple[Site, ...]
    n_layers: int
    vocabulary: int
    ends: tuple[int, ...] = field(default=())


def open_vllm(request: EngineRequest, **extra: Any) -> "VllmEngine":
    """Load a model into vLLM. extra: further arguments of `vllm.LLM`.

    Raises NotSupported, InvalidInput, before any weight is read, where the request cannot be served.
    """
    name, local = model_source(request.model, request.allow_hub)
    config = read_config(name, local_only=local)
    skeleton = build_skeleton(config)
    words = load_words(name, local_only=local)
    sites = tuple(site.spec for site in usable_sites(skeleton))
    _check_machine(request)
    _prepare()
    architecture = type(skeleton).__name__
    if reason := refuses(architecture, sites):
        raise NotSupported(f"{architecture} cannot be measured with vLLM: {reason}.")
    from vllm import LLM

    text = config.get_text_config(decoder=True)
    needed = request.max_length + 1
    if Scope.RESPONSE in request.scopes:
        needed += request.max_new_tokens or request.max_length
    longest = getattr(text, "max_position_embeddings", None) or needed
    arguments = {
        "model": name,
        "dtype": _dtype(request.dtype, config),
        "tensor_parallel_size": request.options.tensor_parallel_size,
        "gpu_memory_utilization": request.options.gpu_memory_utilization,
        "max_model_len": request.options.max_model_len or min(needed, longest),
        "enable_return_routed_experts": True,
        "enable_prefix_caching": True,
        "enforce_eager": True,  # the same kernels for a prompt and for an answer, and a start in seconds
        "model_impl": "vllm",  # never vLLM's own fallback to transformers code
        "load_format": "safetensors",
        "generation_config": "vllm",  # the model's own sampling settings would bend a greedy answer
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "seed": 0,
    }
    llm = LLM(**(arguments | extra))
    embedded = next(skeleton.get_input_embeddings().parameters()).shape[0]
    shape = Shape(sites, text.num_hidden_layers, embedded, _ends(name, words.tokenizer, config, local_only=local))
    place = f"{request.device} x {request.options.tensor_parallel_size} (vllm)"
    return VllmEngine(llm, words, shape, place, request)


class VllmEngine:
    """Counts what a model in vLLM routes. llm: a `vllm.LLM` made with `enable_return_routed_experts=True`."""

    def __init__(self, llm: Any, words: Words, shape: Shape, place: str, request: EngineRequest) -> None:
        self._llm, self._words, self._shape, self._place, self._request = llm, words, shape, place, request
        self._max_model_len = int(llm.model_config.max_model_len)

    @property
    def words(self) -> Words:
        """Return the tokenizer that prompts are encoded with."""
        return self._words

    @property
    def place(self) -> str:
        """Return the device the model runs on, in words."""
        return self._place

    def encode(self, messages: Sequence[Message]) -> EncodedPrompt:
        """Return a prompt as this engine feeds it. Raises InvalidInput where the model has no such token."""
        asked = self._request
        return encode_known(
            self._words,
            self._shape.vocabulary,
            messages,
            max_length=asked.max_length,
            system_prompt=asked.system_prompt,
            exclude_template_tokens=asked.exclude_template_tokens,
        )

    @property
    def dtype(self) -> str:
        """Return the number format that the model computes in."""
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    def measure(
        self,
        window: Sequence[BatchKey],
        inputs: Sequence[Sequence[SampleInput]],
        observe: Observer | None = None,
    ) -> list[MeasuredBatch]:
        """Return one MeasuredBatch per batch of the window, samples in the order they were given.

        Raises InvalidInput for a prompt that does not fit, RoutingUnreadable where a count would not be exact.
        """
        scopes = self._request.scopes
        samples = [sample for batch in inputs for sample in batch]
        rows = [row_of(s.fed or self.encode(s.messages), s, scopes) for s in samples]
        routed = self._route(rows, observe)
        check_sums(routed, self._shape.sites)
        return as_batches(window, inputs, rows, routed, self._words, scopes)

    def answers(self, prompts: Sequence[Ids], max_new_tokens: int) -> list[Ids]:
        """Return the model's greedy answer to each prompt: int32 [token], its end token included where it came."""
        if max_new_tokens < 1:
            return [np.zeros(0, dtype=np.int32) for _ in prompts]
        return [answered.ids for answered in self._run(prompts, max_new_tokens)]

    def close(self) -> None:
        """End the engine and its processes and give the memory back."""
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()

    def _route(self, rows: Sequence[Row], observe: Observer | None = None) -> Routed:
        done = self._run([row.ids for row in rows], 1)
        counts = []
        for i, (row, answered) in enumerate(zip(rows, done, strict=True)):
            chosen = self._chosen(answered)
            counts.append(self._count(row, chosen))
            if observe is not None:
                by_site = [chosen[:, site] for site in range(chosen.shape[1])]
                observe(token_routing(i, row, by_site, self._request.scopes))
        tokens = np.stack([row.lengths for row in rows])
        return Routed(tokens, np.stack(counts), None, np.array([answered.finite for answered in done]))

    def _run(self, fed: Sequence[Ids], max_tokens: int) -> list["_Answered"]:
        """Feed rows of ids and continue each greedily; every routing has the shape that was asked for."""
        from vllm import SamplingParams

        longest = max((len(ids) for ids in fed), default=0) + max_tokens
        if longest > self._max_model_len:
            raise InvalidInput(
                f"A row of {longest} tokens does not fit into vLLM's {self._max_model_len} (max_model_len). Lower "
                "max_length or max_new_tokens, or set engine_options.max_model_len.",
                ("engine_options", "max_model_len"),
            )
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop_token_ids=list(self._shape.ends),
            logprobs=0,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": ids.tolist()} for ids in fed]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        if [output.prompt_token_ids for output in outputs] != [prompt["prompt_token_ids"] for prompt in prompts]:
            raise RoutingUnreadable("vLLM did not feed the tokens it was given.")
        return [self._answered(len(ids), output.outputs[0]) for ids, output in zip(fed, outputs, strict=True)]

    def _answered(self, n_fed: int, completion: Any) -> "_Answered":
        ids = np.asarray(completion.token_ids, dtype=np.int32)
        if completion.routed_experts is None:
            raise RoutingUnreadable(
                "vLLM returned no routed experts: it fell back to an engine that does not record them."
            )
        routing = np.asarray(completion.routed_experts)
        expected = (n_fed + len(ids) - 1, self._shape.n_layers, self._shape.sites[0].top_k)
        if routing.shape != expected:
            raise RoutingUnreadable(
                f"vLLM returned routed experts of the shape {routing.shape} for {n_fed} fed and {len(ids)} generated "
                f"tokens; {expected} ([fed + generated - 1, layers, experts per token]) was expected."
            )
        # A NaN on any token reaches the last one through attention, and with it the log-probability.
        finite = all(np.isfinite(step[token].logprob) for step, token in zip(completion.logprobs, ids, strict=True))
        return _Answered(ids, routing, finite)

    def _chosen(self, answered: "_Answered") -> NDArray[np.int64]:
        """Return int64 [token, site, k]. Raises RoutingUnreadable."""
        sites = self._shape.sites
        chosen: NDArray[np.int64] = answered.routing[:, [site.layer for site in sites]].astype(np.int64)
        _check_chosen(chosen, sites, finite=answered.finite)
        return chosen

    def _count(self, row: Row, chosen: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return int32 [segment, site, expert] from indices [token, site, k]."""
        sites = self._shape.sites
        n_experts = max(site.n_experts for site in sites)
        counted = row.segments < N_COUNTED
        cell = (row.segments[counted, None].astype(np.int64) * len(sites) + np.arange(len(sites))) * n_experts
        shape = (N_COUNTED, len(sites), n_experts)
        counts = np.bincount((cell[..., None] + chosen[counted]).ravel(), minlength=int(np.prod(shape)))
        return counts.reshape(shape).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """ids: int32 [token] generated. routing: [fed + generated - 1, layer, k]. finite: no NaN on the way."""

    ids: Ids
    routing: NDArray[Any]
    finite: bool


def _check_chosen(chosen: NDArray[np.int64], sites: Sequence[Site], *, finite: bool) -> None:
    """Raises RoutingUnreadable where [token, site, k] indices cannot be what a top-k router chose."""
    limits = np.array([site.n_experts for site in sites])
    beyond = (chosen >= limits[:, None]).any(axis=(0, 2))
    if beyond.any():
        site = sites[int(np.argmax(beyond))]
        raise RoutingUnreadable(f"vLLM reports experts beyond the {site.n_experts} of {site.site}.")
    if chosen.shape[2] < 2 or not finite:
        return
    empty = (chosen == 0).all(axis=(0, 2))
    if empty.any():
        names = ", ".join(site.site for site, zero in zip(sites, empty, strict=True) if zero)
        raise RoutingUnreadable(
            f"vLLM reports nothing but expert 0 for {names}: it did not record the routing of that layer."
        )
    ordered = np.sort(chosen, axis=2)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=(0, 2))
    if twice.any():
        site = sites[int(np.argmax(twice))]
        raise RoutingUnreadable(f"vLLM reports the same expert twice for one token at {site.site}.")


def _prepare() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _check_machine(request: EngineRequest) -> None:
    """Raises NotSupported where the devices of this worker are not what the request needs."""
    if reason := why_not(request.device):
        raise NotSupported(f"The engine 'vllm' cannot be used by this worker: {reason}.")
    wanted, there = request.options.tensor_parallel_size, max(torch.cuda.device_count(), 1)
    if wanted > there:
        raise NotSupported(f"tensor_parallel_size is {wanted}, but this worker sees {there} device(s).")
    if request.device.startswith("cuda:") and request.device != "cuda:0":
        raise NotSupported(
            f"vLLM takes the first devices it sees, and this worker is set to {request.device}. Start it with "
            "CUDA_VISIBLE_DEVICES naming its devices and ROUTEPRINT_DEVICE=cuda."
        )


def _dtype(wanted: str, config: Any) -> str:
    """Return the name vLLM is given. Its own `auto` would turn float32 checkpoints into half precision, silently."""
    if wanted != "auto":
        return wanted
    stated = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
    if stated is None:
        raise InvalidInput("The model's configuration states no dtype: name one instead of `auto`.", ("dtype",))
    return str(stated).removeprefix("torch.")


def _ends(name: str, tokenizer: PreTrainedTokenizerBase, config: Any, *, local_only: bool) -> tuple[int, ...]:
    """Return the ids that end an answer, as the transformers engine does: generation settings and tokenizer."""
    try:
        stated = GenerationConfig.from_pretrained(name, local_files_only=local_only).eos_token_id
    except OSError:  # a model without generation_config.json: transformers takes its configuration's
        stated = getattr(config.get_text_config(decoder=True), "eos_token_id", None)
    found = stated if isinstance(stated, list) else [stated]
    return tuple(sorted({int(i) for i in [*found, tokenizer.eos_token_id] if i is not None}))
