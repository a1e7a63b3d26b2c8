"""Connections to the API server, by the official client. No other file imports it.

Read in kubernetes 37.0.1: `ApiClient`, `RESTClientObject.pool_manager`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import urllib3
from kubernetes.client import ApiClient as ApiClient
from kubernetes.client import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from taper_operator.kube.errors import NotLeader
from taper_operator.settings.settings import SettingsError

# For how long a write may still take effect; 0 or less: it must not be sent.
WriteSecondsLeft = Callable[[], float]
WRITE_METHODS: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What the client raises where there is no whole HTTP answer.
TRANSPORT_ERRORS: Final = (urllib3.exceptions.HTTPError, OSError, ApiException)


def connect(kubeconfig: str = "") -> ApiClient:
    """A client for the cluster of a kubeconfig, or for the one that this pod runs in.

    Raises SettingsError. No request is sent yet.
    """
    configuration = Configuration()
    try:
        if kubeconfig:
            load_kube_config(config_file=kubeconfig, client_configuration=configuration)
        else:
            load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise SettingsError([f"--kubeconfig: {error}"]) from error
    # urllib3 would retry three times, and follow redirects with the token.
    configuration.retries = False
    # Detects that the other end of a silent watch is gone. Each watch and each worker keeps a connection.
    configuration.keep_alive = True
    configuration.connection_pool_maxsize = 256
    client = ApiClient(configuration)
    client.user_agent = "taper-operator"
    return client


def fence_connections(client: ApiClient, write_seconds_left: WriteSecondsLeft) -> None:
    """Check right before the first byte of each write whether it may still be sent; else raise NotLeader."""

    class HttpConnection(urllib3.connection.HTTPConnection):
        def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
            if method in WRITE_METHODS and write_seconds_left() <= 0:
                raise NotLeader("not sent: this process may not write any more")
            super().request(method, url, *args, **kwargs)

    class HttpsConnection(HttpConnection, urllib3.connection.HTTPSConnection):
        """Fenced too."""

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = HttpConnection

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = HttpsConnection

    client.rest_client.pool_manager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}
