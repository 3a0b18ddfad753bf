"""Every name of TensorRT's Python interface that we use, in NVIDIA's own bindings of several generations.

The bindings' wheels (1.3 MB each) need the library; here a C compiler makes one that defines what they link
to and nothing else. `bindings_script.py` then checks them in a process of its own. A wheel is looked for in
the folder that ``OVSDINO_TENSORRT_WHEELS`` names, or in pytest's cache, and fetched from the package index if
it is not there.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = Path(os.environ.get("OVSDINO_TENSORRT_WHEELS", ROOT / ".pytest_cache" / "tensorrt_wheels"))
PACKAGE = "tensorrt-cu12-bindings"
VERSIONS = ("10.3.0", "10.9.0.34", "10.10.0.31", "10.13.3.9.post1", "10.16.1.11", "11.4.0.106")
LIBRARIES = ("libnvinfer.so", "libnvonnxparser.so", "libnvinfer_plugin.so")


def find_wheel(version, folder):
    """Return the wheel of a version for this Python; skip the test where there is none and no index."""
    pattern = f"{PACKAGE.replace('-', '_')}-{version}-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl"
    if found := sorted(WHEELS.glob(pattern)):
        return found[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary=:all:"]
    command += ["--retries=0", "--timeout=10", f"--dest={folder}", f"{PACKAGE}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(
            f"pip has no {PACKAGE} {version} for this Python: {done.stderr.strip().splitlines()[-1:]}"
        )
    (wheel,) = folder.glob(pattern)
    WHEELS.mkdir(parents=True, exist_ok=True)
    shutil.copy(wheel, kept := WHEELS / f"{wheel.name}.{os.getpid()}")
    return kept.replace(WHEELS / wheel.name)


def undefined(binding):
    """List what the bindings expect of TensorRT's libraries."""
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", binding], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}
    factories = ("create", "getInfer", "getPlugin", "initLib", "getNv", "getLogger", "getBuilder")
    return sorted(name for name in names if "nvinfer" in name or name.startswith(factories))


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("nm") is None, reason="needs gcc and nm")
@pytest.mark.parametrize("version", VERSIONS)
def test_what_we_use_is_in_every_generation(version, tmp_path):
    zipfile.ZipFile(find_wheel(version, tmp_path)).extractall(tmp_path / "site")
    (package,) = (tmp_path / "site").glob("tensorrt*_bindings")
    package.rename(package.with_name("tensorrt"))
    (binding,) = (tmp_path / "site").rglob("tensorrt.so")
    major = version.partition(".")[0]
    source = tmp_path / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in undefined(binding)))
    for library in LIBRARIES:
        target = tmp_path / f"{library}.{major}"
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{target.name}", "-o", target, source]
        subprocess.run(command, check=True)
    paths = [tmp_path / "site", ROOT, ROOT / "runtime", ROOT / "export"]
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    script = Path(__file__).with_name("bindings_script.py")
    done = subprocess.run(
        [sys.executable, script, version], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
