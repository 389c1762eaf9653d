"""The command line's REST client: one address, one token, errors as sentences."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from backend.domain.errors import RouteprintError
from backend.domain.jobs import FINISHED

Json = dict[str, Any]
POLL_SECONDS = 0.5
_SUBJECTS = {
    "an": "analyses",
    "tr": "trainings",
    "st": "statistics",
    "cmp": "comparisons",
    "ev": "evaluations",
    "stu": "studies",
}


class ApiError(RouteprintError):
    """The API refused a request, or could not be reached. `status` is None in the second case."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class JobFailed(RouteprintError):
    """Long work ended otherwise than `succeeded`."""


def subject_path(id_: str) -> str:
    """Return `analyses/<id>`, `trainings/<id>`, ..., told by the id's prefix."""
    noun = _SUBJECTS.get(id_.partition("_")[0])
    if noun is None:
        known = ", ".join(f"{prefix}_... ({own})" for prefix, own in _SUBJECTS.items())
        raise ApiError(f"{id_!r} is not the id of a run. There are: {known}.")
    return f"{noun}/{id_}"


def _sentence(response: httpx.Response) -> str:
    """Return what a problem document says, in one or several lines."""
    try:
        problem = response.json()
    except ValueError:
        return f"The API answered {response.status_code}: {response.text[:500]}"
    lines = [str(problem.get("detail") or problem.get("title") or response.status_code)]
    for error in problem.get("errors") or []:
        lines.append(f"  {' '.join(str(part) for part in error.get('loc', []))}: {error.get('msg', '')}")
    return "\n".join(lines)


class Client:
    """Calls /api/v1. Use as a context manager."""

    def __init__(self, base_url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"{base_url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60.0,
            trust_env=False,  # a proxy of the environment would not find this machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request. Raises ApiError with the API's own words when it is refused."""
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise ApiError(
                f"No Routeprint answers at {self._http.base_url} ({error}). Start it with `routeprint up`, "
                "or set ROUTEPRINT_API_URL."
            ) from None
        if response.is_error:
            raise ApiError(_sentence(response), response.status_code)
        return response

    def get(self, path: str, **params: Any) -> Any:
        """GET a JSON document."""
        return self.send("GET", path, params=params).json()

    def post(self, path: str, body: Json | None = None, **options: Any) -> Any:
        """POST a JSON body and return the JSON answer."""
        return self.send("POST", path, json=body, **options).json()

    def items(self, path: str, **params: Any) -> Iterator[Json]:
        """Walk a list through all its pages."""
        cursor: str | None = None
        while True:
            page = self.get(path, limit=500, **params, **({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def download(self, path: str, out: Path, **params: Any) -> int:
        """Stream an answer into a file; return its bytes. The file appears only when it is whole."""
        part = out.with_name(out.name + ".part")
        try:
            with self._http.stream("GET", path, params=params, timeout=600.0) as response:
                if response.is_error:
                    response.read()
                    raise ApiError(_sentence(response), response.status_code)
                with part.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            part.replace(out)
        except httpx.TransportError as error:
            raise ApiError(f"The download of {path} broke off: {error}") from None
        finally:
            part.unlink(missing_ok=True)
        return out.stat().st_size

    def wait(self, path: str, seen: Callable[[Json], None]) -> Json:
        """Ask until the resource is finished, telling `seen` each answer. Raises JobFailed unless it succeeded."""
        while True:
            resource: Json = self.get(path)
            seen(resource)
            if resource["status"] in FINISHED:
                break
            time.sleep(POLL_SECONDS)
        if resource["status"] != "succeeded":
            raise JobFailed(f"{path} {resource['status']}: {resource.get('error') or 'no reason was given'}")
        return resource
