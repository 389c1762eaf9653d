"""Models: find them, say what is supported and why not, and load them safely.

Judging a model needs its configuration only: it is built on the meta device, without memory or weights. Code that
comes with a model is never run, pickled weights are never opened, and the network is asked only where the settings
allow the hub. Not covered: where the experts sit (sites.py), vLLM.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from backend.domain.canonical import digest, sha256_hex
from backend.domain.errors import InvalidInput, NotFound, NotSupported
from backend.domain.vocabulary import Site
from worker.abilities import refusals
from worker.folders import check_inside, hub_name, read_config_bytes
from worker.limits import LimitReached, limited
from worker.prompts import template_digest, tokenizer_digest
from worker.sites import MoeSite, find_sites, unread_blocks
from worker.templates import check_template

SCAN_SECONDS, SCAN_MEMORY = 120.0, 4 * 2**30
"""What building a skeleton may take; the largest models take some seconds."""

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class ScannedModel:
    """What is known of a model without loading it. reason: why it is not supported; None where it is.

    Digests: config and tokenizer over their canonical JSON, template over its text (None: the tokenizer has none),
    weights over the sorted (file name, SHA-256) of the safetensors files. refuses: {what training cannot do with this
    family: why} (abilities.py).
    """

    id: str
    path: Path
    architecture: str
    supported: bool
    reason: str | None
    sites: tuple[Site, ...]
    n_parameters: int | None
    config_digest: str
    weights_digest: str | None
    tokenizer_digest: str | None
    template_digest: str | None
    refuses: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to measure or train, with its tokenizer, its routing sites and the digests that name its words."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sites: tuple[MoeSite, ...]
    tokenizer_digest: str
    template_digest: str | None
    device: torch.device


@dataclass(frozen=True, slots=True, eq=False)
class LoadedWords:
    """A model's tokenizer, with the digests that name its words: what an engine needs that loads the model itself."""

    tokenizer: PreTrainedTokenizerBase
    tokenizer_digest: str
    template_digest: str | None


def scan_models(models_dir: Path, *, digest_file: Callable[[Path], str] | None = None) -> Iterator[ScannedModel]:
    """Yield every model below the folder (`<model>` or `<org>/<model>`), in the order of their ids.

    A model that cannot be used comes with its reason; none stops the scan.
    """
    found = {p.parent for pattern in ("*/config.json", "*/*/config.json") for p in models_dir.glob(pattern)}
    for folder in sorted(found):
        id_ = folder.relative_to(models_dir).as_posix()
        if not any(part.startswith(".") for part in id_.split("/")):
            yield inspect_model(folder, model_id=id_, models_dir=models_dir, digest_file=digest_file)


def inspect_model(
    path: Path,
    *,
    model_id: str | None = None,
    models_dir: Path | None = None,
    digest_file: Callable[[Path], str] | None = None,
) -> ScannedModel:
    """Judge the model in a folder from its configuration, never loading its weights.

    models_dir: what the folder and its files must not lead out of (default: the folder). digest_file: gives the SHA-256
    of a file; a caller that scans often passes one that remembers. Raises NotFound where the folder holds no
    config.json; everything else comes back as `supported=False` with the reason.
    """
    if not (path / "config.json").is_file():
        raise NotFound("model with a config.json in", str(path))
    content, architecture, sites, n_parameters = b"", "unknown", tuple[Site, ...](), None  # no content: none was read
    tokenizer, reason, refuses = None, None, dict[str, str]()
    try:
        check_inside(path, models_dir or path)
        content = read_config_bytes(path)
        architecture = _declared_architecture(content)
        config = read_config(path)
        architecture = _architecture(config)
        with limited(SCAN_SECONDS, SCAN_MEMORY):
            skeleton = build_skeleton(config)
            n_parameters = parameter_count(skeleton)
            found = usable_sites(skeleton)
            sites, refuses = tuple(site.spec for site in found), refusals(found)
        tokenizer = load_tokenizer(path)
        check_template(tokenizer)
        _check_weight_files(path)
    except (NotSupported, InvalidInput) as error:
        reason = str(error)
    except LimitReached as error:
        reason = f"{architecture} was given up: building its skeleton used {error}."
    return ScannedModel(
        id=model_id or path.name,
        path=path,
        architecture=architecture,
        supported=reason is None,
        reason=reason,
        sites=sites,
        n_parameters=n_parameters,
        config_digest=_config_digest(content),
        weights_digest=weights_digest(path, digest_file) if content else None,
        tokenizer_digest=tokenizer_digest(tokenizer, path) if tokenizer else None,
        template_digest=template_digest(tokenizer) if tokenizer else None,
        refuses=refuses,
    )


def load_model(
    path: Path | str,
    *,
    dtype: str = "auto",
    device: str | torch.device = "cpu",
    allow_hub: bool = False,
) -> LoadedModel:
    """Load a model for measuring, in evaluation mode. No code runs but that of transformers itself.

    path: a folder, or `hub:<org>/<name>` where `allow_hub`. Raises NotFound, or NotSupported with the architecture
    named before any weight is read.
    """
    if dtype not in DTYPES:
        raise InvalidInput(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.", ("dtype",))
    name, local = model_source(path, allow_hub)
    usable_sites(build_skeleton(read_config(name, local_only=local)))
    tokenizer = load_tokenizer(name, local_only=local)
    model = AutoModelForCausalLM.from_pretrained(
        name, dtype=DTYPES[dtype], use_safetensors=True, local_files_only=local, trust_remote_code=False
    )
    nn.Module.to(model, torch.device(device))
    return as_loaded(model, tokenizer, folder=Path(name) if local else None)


def as_loaded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path | None = None) -> LoadedModel:
    """Wrap a model that is in memory already, in evaluation mode. Raises NotSupported for one without usable sites."""
    nn.Module.eval(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        sites=usable_sites(model),
        tokenizer_digest=tokenizer_digest(tokenizer, folder),
        template_digest=template_digest(tokenizer),
        device=next(model.parameters()).device,
    )


def read_config(name: Path | str, *, local_only: bool = True) -> PreTrainedConfig:
    """Read a configuration. Raises NotSupported where it is not one that transformers knows by itself."""
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local_only, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error)
        if "trust_remote_code" in text or "custom code" in text:
            raise NotSupported(
                "The model needs code that comes with it (trust_remote_code), and such code is never run here."
            ) from error
        raise NotSupported(f"The installed transformers cannot read this configuration: {_first_line(text)}") from error
    assert isinstance(config, PreTrainedConfig)
    return config


def build_skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the model on the meta device: every shape, no memory. Raises NotSupported, naming the architecture."""
    architecture = _architecture(config)
    if getattr(config.get_text_config(decoder=True), "expert_capacity", None) is not None:
        raise NotSupported(
            f"{architecture} drops tokens that exceed an expert's capacity, so what its experts receive depends on "
            "the other tokens of the batch. It cannot be measured per sample."
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise NotSupported(f"{architecture} is not a causal language model that transformers can build.")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, NotImplementedError) as error:
        raise NotSupported(f"{architecture} cannot be built from its configuration: {_first_line(error)}") from error
    assert isinstance(model, PreTrainedModel)
    return model


def usable_sites(model: PreTrainedModel) -> tuple[MoeSite, ...]:
    """Return the model's routing sites. Raises NotSupported, naming the architecture, where none can be read."""
    architecture = type(model).__name__
    try:
        sites = find_sites(model)
    except NotSupported as error:
        raise NotSupported(f"{architecture}: {error}") from error
    if not sites and (blocks := unread_blocks(model)):
        raise NotSupported(
            f"{architecture} routes tokens to experts, but keeps them where their choice cannot be read: {blocks[0]}."
        )
    if not sites:
        raise NotSupported(f"{architecture} is a dense model: no layer of it routes tokens to experts.")
    return sites


def load_tokenizer(name: Path | str, *, local_only: bool = True) -> PreTrainedTokenizerBase:
    """Load a tokenizer, never running code that comes with it. Raises NotSupported where there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local_only, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise NotSupported(f"The model's tokenizer cannot be loaded: {_first_line(error)}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    files = {"tokenizer.json", "tokenizer.model", "tekken.json", *tokenizer.vocab_files_names.values()}
    if local_only and not any((Path(name) / file).is_file() for file in files):
        raise NotSupported(
            "The model's tokenizer cannot be loaded: its folder holds none."
        )  # transformers makes one up
    return tokenizer


def load_words(name: Path | str, *, local_only: bool = True) -> LoadedWords:
    """Load a tokenizer with its digests. Raises NotSupported where there is none."""
    tokenizer = load_tokenizer(name, local_only=local_only)
    folder = Path(name) if local_only else None
    return LoadedWords(tokenizer, tokenizer_digest(tokenizer, folder), template_digest(tokenizer))


def weights_digest(folder: Path, digest_file: Callable[[Path], str] | None = None) -> str | None:
    """Return the SHA-256 over the sorted (file name, SHA-256) of a folder's safetensors files; None without any."""
    one = digest_file or sha256_file
    files = sorted(folder.glob("*.safetensors"))
    return digest([[file.name, one(file)] for file in files]) if files else None


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_source(path: Path | str, allow_hub: bool) -> tuple[str, bool]:
    """Return (what from_pretrained is given, whether only local files may be used). Raises NotFound, NotSupported."""
    text = str(path)
    if text.startswith("hub:"):
        if not allow_hub:
            raise NotSupported(f"{text} lies on the hub, which the settings do not allow (ROUTEPRINT_ALLOW_HUB).")
        return hub_name(text.removeprefix("hub:")), False
    if not (Path(text) / "config.json").is_file():
        raise NotFound("model with a config.json in", text)
    return text, True


def _check_weight_files(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise NotSupported("The folder holds no *.safetensors file, and pickled weights are never opened.")


def _declared_architecture(content: bytes) -> str:
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotSupported(f"config.json is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise NotSupported("config.json does not hold a JSON object.")
    names = value.get("architectures") or [value.get("model_type") or "unknown"]
    return str(names[0])[:200] if isinstance(names, list) else "unknown"


def _architecture(config: PreTrainedConfig) -> str:
    names = config.architectures
    return str(names[0]) if names else type(config).__name__.removesuffix("Config")


def _config_digest(content: bytes) -> str:
    try:
        return digest(json.loads(content, parse_constant=str))  # Infinity and NaN stand in some configurations
    except (ValueError, RecursionError):
        return sha256_hex(content)


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers a model holds; tied weights count once."""
    return sum(p.numel() for p in module.parameters())
