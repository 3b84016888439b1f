"""The images, built for the test and looked into. Needs buildah or podman, and what `make build-static` builds."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from stack import paths

STATIC = paths.TARGET / "x86_64-unknown-linux-musl" / "dist" / "warmpath"
SCRIPT = paths.ROOT / "deploy" / "images" / "images"
(VERSION,) = re.findall(r'^version = "(.*)"$', (paths.ROOT / "Cargo.toml").read_text(), flags=re.MULTILINE)


class Image:
    """An image in the layout of OCI, unpacked."""

    def __init__(self, folder: Path):
        self.folder = folder
        (entry,) = json.loads((folder / "index.json").read_text())["manifests"]
        self.manifest = self._read(entry)
        self.config = self._read(self.manifest["config"])["config"]

    def _blob(self, descriptor: dict) -> Path:
        return self.folder / "blobs" / descriptor["digest"].replace(":", "/")

    def _read(self, descriptor: dict) -> dict:
        return json.loads(self._blob(descriptor).read_text())

    def layer(self) -> tarfile.TarFile:
        """The last one."""
        return tarfile.open(self._blob(self.manifest["layers"][-1]), "r:gz")

    def unpacked(self, folder: Path) -> Path:
        folder.mkdir()
        for layer in self.manifest["layers"]:
            with tarfile.open(self._blob(layer), "r:gz") as archive:
                archive.extractall(folder)
        return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, Image]:
    tool = shutil.which("buildah") or shutil.which("podman")
    if not tool:
        pytest.skip("neither buildah nor podman is there")
    if not STATIC.exists():
        pytest.skip("no static binary; `make build-static` builds it")
    folder = tmp_path_factory.mktemp("images")
    # A store of its own: the user's stays as it is.
    store = folder / "storage.conf"
    store.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(store), "CONTAINER_TOOL": Path(tool).name}
    built = subprocess.run([SCRIPT, "build"], env=environment, capture_output=True, text=True)
    if built.returncode and "permitted" in built.stderr:
        pytest.skip(f"{tool} may not build here: {built.stderr.strip()}")
    assert built.returncode == 0, built.stderr
    made = {}
    for image in built.stdout.split():
        name = image.split(":")[0]
        subprocess.run([tool, "push", "--quiet", image, f"oci:{folder / name}:{VERSION}"], env=environment, check=True)
        made[name] = Image(folder / name)
    return made


def test_istios_agent_finds_the_plugin(images):
    """As its fetcher reads it: the last layer, tar+gzip, a file of this name."""
    layers = images["warmpath-filter"].manifest["layers"]
    assert [layer["mediaType"] for layer in layers] == ["application/vnd.oci.image.layer.v1.tar+gzip"]
    with images["warmpath-filter"].layer() as archive:
        plugin = archive.extractfile("plugin.wasm").read()
    assert hashlib.sha256(plugin).digest() == hashlib.sha256(paths.FILTER.read_bytes()).digest()


def test_the_sidecar_is_all_that_its_image_holds(images, tmp_path):
    image = images["warmpath"]
    with_files = image.unpacked(tmp_path / "root")
    files = {str(p.relative_to(with_files)): p for p in with_files.rglob("*") if p.is_file()}
    assert set(files) == {"warmpath", "warmpath_filter.wasm"}
    assert files["warmpath_filter.wasm"].read_bytes() == paths.FILTER.read_bytes()
    # Another user runs it.
    assert files["warmpath"].stat().st_mode & 0o005 == 0o005 and files["warmpath_filter.wasm"].stat().st_mode & 0o004
    assert image.config["Entrypoint"] == ["/warmpath"]
    user = image.config["User"].split(":")[0]
    assert user.isdigit() and int(user) > 0, "runAsNonRoot needs a number"
    assert image.config["Labels"]["org.opencontainers.image.version"] == VERSION


def test_the_sidecar_needs_nothing_of_the_system(images, tmp_path):
    """No loader and no libraries: it would not start in an image that holds nothing else."""
    binary = images["warmpath"].unpacked(tmp_path / "root") / "warmpath"
    assert b"/lib64/ld-linux" not in binary.read_bytes() and b"ld-musl" not in binary.read_bytes()
    done = subprocess.run([binary, "--version"], env={}, capture_output=True, text=True)
    assert done.stdout == f"warmpath {VERSION}\n", done.stderr
