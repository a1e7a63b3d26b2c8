"""A fake of the token reviews of an API server: it knows for what each token was issued.

As a real one, it says of a token whether it is good, of which account, and for which of the
audiences that were asked about it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taper_operator.kube.resource import Resource
from taper_operator.manifests.kinds import TOKEN_REVIEWS
from taper_operator.manifests.names import JobIdentity
from taper_operator.manifests.pod_volumes import token_audience

from ..fake_api_server import FakeApiServer, FakeHttpResponse, _json


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeToken:
    """account: namespace and name of the ServiceAccount"""

    account: tuple[str, str]
    audiences: tuple[str, ...]


class TokenApiServer(FakeApiServer):
    """An API server in memory that also reviews tokens. tokens: that it has given out"""

    def __init__(self, *resources: Resource, **options: Any) -> None:
        super().__init__(*resources, TOKEN_REVIEWS, **options)
        self.tokens: dict[str, MadeToken] = {}

    def give(self, token: str, identity: JobIdentity, attempt: int) -> str:
        """A token as the kubelet puts it into the head's pod of an attempt."""
        self.tokens[token] = MadeToken(
            account=(identity.namespace, identity.shared_name), audiences=(token_audience(identity, attempt),)
        )
        return token

    def _handle(self, method: str, path: str, query: dict[str, str], body: Any) -> FakeHttpResponse:
        found = self._find(path)
        if found is None or found[0] != TOKEN_REVIEWS:
            return super()._handle(method, path, query, body)
        assert method == "POST"
        assert body["kind"] == "TokenReview"
        made = self.tokens.get(body["spec"]["token"])
        audiences = [each for each in body["spec"]["audiences"] if made and each in made.audiences]
        status: dict[str, Any] = {"authenticated": False, "error": "invalid bearer token"}
        if made is not None and audiences:
            user = {"username": f"system:serviceaccount:{made.account[0]}:{made.account[1]}"}
            status = {"authenticated": True, "audiences": audiences, "user": user}
        return _json(201, body | {"metadata": {}, "status": status})
