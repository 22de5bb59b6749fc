"""Servers on this machine that speak the protocols of Google's and Amazon's buckets, each with an empty `bucket`."""

import contextlib
import http
import socket
import subprocess
import sys
import threading
import time
import urllib.request

from tests.jobs import runs

SCHEMES = ("gs", "s3")


def serve_gs(port):
    """gcp-storage-emulator, and what it lacks and TensorStore needs: generations, and writes on condition of one."""
    from gcp_storage_emulator import exceptions
    from gcp_storage_emulator.handlers import objects

    download, insert = objects.download, objects.insert

    def generation(storage, bucket, name):
        try:
            return storage.get_file_obj(bucket, name)["generation"]
        except exceptions.NotFound:
            return "0"

    def download_with_generation(request, response, storage, *rest):
        response["x-goog-generation"] = generation(storage, request.params["bucket_name"], request.params["object_id"])
        return download(request, response, storage, *rest)

    def insert_on_condition(request, response, storage, *rest):
        expected, name = request.query.get("ifGenerationMatch"), request.query.get("name")
        if expected and name and generation(storage, request.params["bucket_name"], name[0]) != expected[0]:
            response.status = http.HTTPStatus.PRECONDITION_FAILED
            return None
        return insert(request, response, storage, *rest)

    objects.download, objects.insert = download_with_generation, insert_on_condition
    from gcp_storage_emulator import server  # its table of handlers is made now

    server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").run()


def serve_s3(port):
    import boto3
    import moto.server

    server = moto.server.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    boto3.client("s3").create_bucket(Bucket="bucket")
    threading.Event().wait()


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


def has_bucket(scheme, port) -> bool:
    """Whether the server answers and its `bucket` is made: an open port says only the former."""
    path = {"gs": "storage/v1/b/bucket", "s3": "bucket"}[scheme]
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5):
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
    command = [sys.executable, "-m", "tests.multihost.buckets", scheme, str(port)]
    options = {"cwd": runs.ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**variables, **environment(scheme, port)}, **options) as server:
        try:
            deadline = time.monotonic() + 120
            while not has_bucket(scheme, port):
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield port
        finally:
            server.terminate()


if __name__ == "__main__":
    {"gs": serve_gs, "s3": serve_s3}[sys.argv[1]](int(sys.argv[2]))
