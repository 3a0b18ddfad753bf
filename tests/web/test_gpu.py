"""The page on WebGPU, which runs on the processor here: the tiny model, since that is slow."""

import numpy as np
import pytest
from PIL import Image

from ovsdino_export.web.page import SETTINGS, write_page
from ovsdino_runtime.segmenter import Segmenter
from tests.demo.browser import chromium
from tests.web.browser import Visit

pytestmark = pytest.mark.browser

SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--ignore-gpu-blocklist",
)
SAME = 0.995  # share of the pixels with the runtime's label


@pytest.fixture(scope="module")
def software_gpu():
    """A browser whose WebGPU runs on the processor, or a skip."""
    with chromium(*SOFTWARE_GPU) as browser:
        yield browser


@pytest.mark.parametrize("reproduces", [True, False])
def test_the_gpu_is_used_where_it_reproduces_the_model(
    reproduces, software_gpu, npm_package, shared_bundle, tmp_path
):
    folder = tmp_path / "page"
    write_page(shared_bundle, folder, runtime=npm_package)
    settings = folder / SETTINGS
    text = settings.read_text(encoding="utf-8").replace('"softwareGpu":false', '"softwareGpu":true')
    if not reproduces:  # other colours than those that the golden features were made from
        text = text.replace('"mean":[0.5,0.5,0.5]', '"mean":[0.5,0.1,0.9]')
    settings.write_text(text, encoding="utf-8")
    visit = Visit(software_gpu, folder.as_uri())
    if not visit.page.evaluate("navigator.gpu && navigator.gpu.requestAdapter().then((found) => !!found)"):
        pytest.skip("this Chromium has no WebGPU")
    flag = np.zeros((90, 150, 3), np.uint8)
    for stripe in range(3):
        flag[:, 50 * stripe : 50 * stripe + 50, stripe] = 255
    Image.fromarray(flag).save(tmp_path / "flag.png")
    line = visit.segment(tmp_path / "flag.png", "red, green, blue")
    assert line.startswith("Done"), line
    assert line.endswith("WebGPU." if reproduces else "WebAssembly, 1 thread.")
    if reproduces:
        expected = Segmenter.load(shared_bundle.path, threads=1)(tmp_path / "flag.png", "red, green, blue")
        assert (visit.labels() == expected.labels).mean() >= SAME
    visit.close()
