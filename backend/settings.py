"""The product's settings: the only reader of the environment in backend and worker.

The dashboard is its own program that speaks REST only; it reads its two variables (API address, token) itself.
"""

from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every `ROUTEPRINT_*` variable with its default; see contract.md, Environment."""

    model_config = SettingsConfigDict(env_prefix="ROUTEPRINT_", env_ignore_empty=True, frozen=True)

    home: Path = Field(default_factory=lambda: user_data_path("routeprint", appauthor=False))
    database_url: str = ""
    jobs_url: str = ""
    token: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=1, le=65535)
    dashboard_port: int = Field(default=8322, ge=1, le=65535)
    api_url: str = ""
    dashboard_url: str = ""
    models_dir: Path | None = None
    allow_hub: bool = False
    device: str = "auto"
    grace_seconds: float = Field(default=15.0, ge=0, le=3600)
    deleted_days: float = Field(default=7.0, ge=0, le=36500)
    log_format: Literal["auto", "text", "json"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    judge_url: str = ""
    judge_model: str = ""
    judge_key: SecretStr = SecretStr("")
    # Experiment trackers, by the libraries' own names.
    tensorboard_dir: Path | None = Field(default=None, validation_alias="TENSORBOARD_LOGGING_DIR")
    mlflow_uri: str = Field(default="", validation_alias="MLFLOW_TRACKING_URI")
    mlflow_experiment: str = Field(default="routeprint", validation_alias="MLFLOW_EXPERIMENT_NAME")
    wandb_mode: str = Field(default="offline", validation_alias="WANDB_MODE")
    wandb_dir: Path | None = Field(default=None, validation_alias="WANDB_DIR")
    wandb_project: str = Field(default="routeprint", validation_alias="WANDB_PROJECT")
    wandb_api_key: SecretStr = Field(default=SecretStr(""), validation_alias="WANDB_API_KEY")

    @property
    def tables_url(self) -> str:
        """SQLAlchemy URL of the product's own tables."""
        return self.database_url or f"sqlite:///{self.home / 'routeprint.sqlite3'}"

    @property
    def queue_url(self) -> str:
        """SQLAlchemy URL of the job queue (DBOS's own tables): by default beside the tables, on a server too."""
        beside = "" if self.database_url.startswith("sqlite") else self.database_url
        return self.jobs_url or beside or f"sqlite:///{self.home / 'jobs.sqlite3'}"

    @property
    def models_path(self) -> Path:
        """Folder in which local models lie, one folder each (or <org>/<model>)."""
        return self.models_dir or self.home / "models"

    @property
    def artifacts_path(self) -> Path:
        """Folder of large files: checkpoints, exports."""
        return self.home / "artifacts"

    @property
    def logs_path(self) -> Path:
        """Folder of the services' and jobs' log files."""
        return self.home / "logs"

    @property
    def token_path(self) -> Path:
        """Owner-only file that holds the generated access token."""
        return self.home / "token"

    @property
    def judge_host(self) -> str:
        """Host of the judge's address, fit to be shown and stored."""
        return urlsplit(self.judge_url).hostname or ""

    @property
    def base_url(self) -> str:
        """Address at which clients reach the API."""
        return (self.api_url or f"http://{self.host}:{self.port}").rstrip("/")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once. Tests call `get_settings.cache_clear()`."""
    return Settings()
