"""The catalogue of models to download, with addresses and licences. Needs neither torch nor network."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face Hub."""

    repo: str
    file: str
    size: int  # [bytes] about, from the number of parameters
    revision: str | None = None  # a commit; None takes what the repository has now
    sha256: str | None = None

    def address(self, endpoint: str = HUB) -> str:
        """Return the address of the file."""
        return f"{endpoint}/{self.repo}/resolve/{self.revision or 'main'}/{quote(self.file)}"


@dataclass(frozen=True)
class WebFile:
    """A file at a web address of its project."""

    url: str
    size: int  # [bytes] about
    sha256: str | None = None  # all 64 digits, or the first ones where the project gives only these

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    def address(self, endpoint: str = HUB) -> str:  # noqa: ARG002 - as of a file on the Hub
        """Return the address of the file."""
        return self.url


@dataclass(frozen=True)
class GatedFile:
    """A file that its project provides after a form has been filled in."""

    file: str
    page: str
    size: int  # [bytes] about
    sha256: str | None = None

    def address(self, endpoint: str = HUB) -> str:  # noqa: ARG002 - as of a file on the Hub
        """Return the page on which access is requested."""
        return self.page


File = HubFile | WebFile | GatedFile


@dataclass(frozen=True)
class CatalogueEntry:
    """A catalogue entry: a model that can be exported, or weights that training needs."""

    what: str
    licence: str
    files: tuple[File, ...] = ()
    model: bool = True  # `ovsdino models prepare` makes a bundle of it

    @property
    def size(self) -> int:
        """Approximate size of all files [bytes]."""
        return sum(file.size for file in self.files)


DINOV2, SAM = "https://dl.fbaipublicfiles.com/dinov2", "https://dl.fbaipublicfiles.com/segment_anything"
DINOV3_PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"
TALK2DINO = "projection: see its page on the Hub"

# The revision is the one that public code of others names; we could not look at the Hub. Where a revision or
# a hash is None, none is known to us. DINOv3's eight digits are in the official names (`hubconf.py`).
ENTRIES: dict[str, CatalogueEntry] = {
    "talk2dino-vitb14": CatalogueEntry(
        "Talk2DINO on DINOv2 ViT-B/14 with registers",
        f"{TALK2DINO}; DINOv2: Apache-2.0; CLIP: MIT",
        (
            HubFile(
                "lorebianchi98/Talk2DINO-ViTB",
                "model.safetensors",
                949_000_000,
                revision="d120439255ae423ad0a3f4a13896bb74ae48792f",
            ),
        ),
    ),
    "talk2dino-vitl14": CatalogueEntry(
        "Talk2DINO on DINOv2 ViT-L/14 with registers",
        f"{TALK2DINO}; DINOv2: Apache-2.0; CLIP: MIT",
        (HubFile("lorebianchi98/Talk2DINO-ViTL", "model.safetensors", 1_822_000_000),),
    ),
    "talk2dino-dinov3-vitb16": CatalogueEntry(
        "Talk2DINO on DINOv3 ViT-B/16",
        f"{TALK2DINO}; DINOv3: DINOv3 License; CLIP: MIT",
        (HubFile("lorebianchi98/Talk2DINOv3-ViTB", "model.safetensors", 945_000_000),),
    ),
    "dinotxt-vitl16": CatalogueEntry(
        "dino.txt on DINOv3 ViT-L/16, zero-shot",
        "DINOv3 License",
        (
            GatedFile(
                file="dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth",
                page=DINOV3_PAGE,
                size=1_212_000_000,
                sha256="8aa4cbdd",
            ),
            GatedFile(
                file="dinov3_vitl16_dinotxt_vision_head_and_text_encoder-a442d8f5.pth",
                page=DINOV3_PAGE,
                size=2_254_000_000,
                sha256="a442d8f5",
            ),
        ),
    ),
    "dinov2-vitb14": CatalogueEntry(
        "DINOv2 ViT-B/14, to train ovsdino-vitb14 from (--init)",
        "Apache-2.0",
        (WebFile(f"{DINOV2}/dinov2_vitb14/dinov2_vitb14_pretrain.pth", 346_000_000),),
        model=False,
    ),
    "clip-vitb16": CatalogueEntry(
        "OpenAI's CLIP ViT-B/16, whose words ovsdino-vitb14 meets (--text)",
        "MIT",
        (HubFile("timm/vit_base_patch16_clip_224.openai", "open_clip_model.safetensors", 598_000_000),),
        model=False,
    ),
    "sam-vitb": CatalogueEntry(
        "Segment Anything ViT-B, with which training aligns (--sam)",
        "Apache-2.0",
        (WebFile(f"{SAM}/sam_vit_b_01ec64.pth", 375_000_000),),
        model=False,
    ),
}
