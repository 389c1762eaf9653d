"""Models over REST: what a worker found out about them."""

from backend.api.schemas.common import Answer, SiteOut, Status


class ModelOut(Answer):
    """A scanned model. `supported` false comes with the reason, which names the architecture.

    `refuses` says what training cannot do with this family, and why: {"adapter": ..., "routers": ...}.
    """

    id: str
    architecture: str
    moe_layers: int
    n_experts: int
    top_k: int
    sites: list[SiteOut]
    engines: list[str]
    supported: bool
    reason: str | None
    refuses: dict[str, str]
    n_parameters: int | None
    has_chat_template: bool
    scanned_at: str


class ScanOut(Answer):
    """A queued scan of the models folder."""

    id: str
    status: Status
