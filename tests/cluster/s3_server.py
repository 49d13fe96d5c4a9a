"""An S3 server on this machine: moto's, which keeps everything in memory."""

import shutil
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from typing import Any


@dataclass
class S3Server:
    """An S3 server in a process of its own. What it stores is gone when it stops."""

    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        """The URL of `bucket/prefix` on this server."""
        return f"s3://{path}?scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1"

    def start(self) -> None:
        """Start, or start again, and wait until it answers."""
        program = shutil.which("moto_server")
        assert program is not None, "make test-cluster installs it"
        command = [program, "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                urllib.request.urlopen(self.address, timeout=5).close()
            except OSError:
                time.sleep(0.1)
                assert self.process.poll() is None
            else:
                return
        raise AssertionError("the S3 server does not answer")

    def kill(self) -> None:
        """As `kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask_for_keys(self, really: bool) -> None:
        """Refuse every request from now on: the server knows no keys; or take all again."""
        body = b"0" if really else b"inf"
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.address}/moto-api/reset-auth", data=body, headers=headers)
        urllib.request.urlopen(request, timeout=10).close()

    def client(self) -> Any:
        """boto3's client, for looking behind the store's back."""
        import boto3

        return boto3.client("s3", endpoint_url=self.address, region_name="us-east-1")
