"""Servers on this machine that speak the protocols of Google's and Amazon's buckets, each with an empty `bucket`."""

import contextlib
import socket
import subprocess
import sys
import time

SCHEMES = ("gs", "s3")
_GS = """
import sys
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").run()
"""
_S3 = """
import sys
import boto3, moto.server
server = moto.server.ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server.start()
boto3.client("s3").create_bucket(Bucket="bucket")
server._thread.join()
"""


def environment(scheme, port) -> dict[str, str]:
    """The variables by which fsspec's packages, Google's client and TensorStore find the server and need no account."""
    address = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        return {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
        "GOOGLE_CLOUD_PROJECT": "any",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask Google what kind of bucket this is
    }


def answers(port) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@contextlib.contextmanager
def serving(scheme, variables):
    """Serves while the block runs.

    Args:
      scheme: "gs" or "s3".
      variables: the environment of the server.

    Yields:
      The port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", {"gs": _GS, "s3": _S3}[scheme], str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**variables, **environment(scheme, port)}, **quiet) as server:
        try:
            deadline = time.monotonic() + 120
            while not answers(port):
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield port
        finally:
            server.terminate()
