"""`python -m backend`: the API, served by uvicorn."""

import logging
import sys

import uvicorn

from backend.api.app import create_app
from backend.domain.errors import InvalidInput, NotSupported, Unreachable
from backend.security import check_bind
from backend.settings import get_settings

log = logging.getLogger("routeprint.backend")


def main() -> None:
    """Serve until SIGTERM or SIGINT; requests in hand are finished first."""
    settings = get_settings()
    try:
        check_bind(settings)
    except InvalidInput as error:
        sys.exit(f"routeprint: {error}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for chatty in ("alembic", "dbos"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        app = create_app(settings)
    except (NotSupported, Unreachable) as error:
        sys.exit(f"routeprint: {error}")
    log.info("serving on http://%s:%s, data in %s", settings.host, settings.port, settings.home)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,  # an open event stream would hold the door for ever
    )


if __name__ == "__main__":
    main()
