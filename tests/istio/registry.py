"""An OCI registry with the filter in it, in the layout that Istio's agent pulls: an image whose one layer has
`plugin.wasm`."""

import subprocess
import tarfile
from pathlib import Path

from stack import network, paths
from stack.process import Process, free_port, wait_for


class Registry:
    """Started when made, with the filter pushed. `url` is what a WasmPlugin names."""

    def __init__(self, folder: Path, crane: Path):
        # Plain HTTP is spoken to a registry by IP address or localhost only where it is told to be insecure.
        self.host = f"{network.API_SERVER}:{free_port()}"
        self.process = Process("registry", [crane, "registry", "serve", "--address", self.host], folder / "registry.log")
        layer = folder / "filter.tar"
        with tarfile.open(layer, "w") as archive:
            archive.add(paths.FILTER, "plugin.wasm")
        image = f"{self.host}/warmpath-filter:test"

        def push() -> bool:
            command = [crane, "append", "--insecure", "--new_layer", layer, "--new_tag", image]
            return subprocess.run(command, capture_output=True, text=True).returncode == 0

        try:
            wait_for("the registry", push)
        except BaseException:
            self.stop()
            raise
        self.url = f"oci://{image}"
        ask = [crane, "digest", "--insecure", image]
        # What `sha256` of a WasmPlugin means for an image: its digest.
        self.sha256 = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip().removeprefix("sha256:")

    def requests(self) -> str:
        return self.process.log()

    def stop(self) -> None:
        self.process.kill()
