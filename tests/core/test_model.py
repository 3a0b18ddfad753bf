"""The network against its published sizes and an independent restatement of the equations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ovsdino.network.config import ADDED_FIELDS, PRESETS, ModelConfig
from ovsdino.network.head import cosine
from ovsdino.network.model import OVSDINO

# ---- sizes: systems.md A.4 ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vitb14() -> OVSDINO:
    with torch.device("meta"):  # shapes without numbers
        return OVSDINO(PRESETS["ovsdino-vitb14"]).eval()


@pytest.mark.parametrize(
    ("part", "millions"),
    [
        ("structure_encoder", 1.78),
        ("structure_decoder", 0.20),
        ("gate", 0.63),
        ("projector", 0.39),
        ("backbone", 86.58),
    ],
)
def test_published_parameter_counts(vitb14: OVSDINO, part: str, millions: float) -> None:
    count = sum(p.numel() for p in vitb14.get_submodule(part).parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.02)


@torch.inference_mode()
def test_vitb14_shapes_at_448(vitb14: OVSDINO) -> None:
    encoded = vitb14.encode(torch.empty(1, 3, 448, 448, device="meta"))
    assert encoded.structure.shape == (1, 256, 64, 64)
    assert encoded.features.shape == (1, 512, 32, 32)


# ---- the equations, restated in numpy with loops ----------------------------------------------------


def conv(
    x: NDArray, weight: NDArray, bias: NDArray | None, *, stride: int = 1, depthwise: bool = False
) -> NDArray:
    """(C, h, w) by explicit shifts; padding keeps the size at stride 1."""
    out_channels, _, size, _ = weight.shape
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    height, width = x.shape[1:]
    out = np.zeros((out_channels, height, width))
    for dy in range(size):
        for dx in range(size):
            view = padded[:, dy : dy + height, dx : dx + width]
            out += (
                view * weight[:, 0, dy, dx][:, None, None]
                if depthwise
                else np.tensordot(weight[:, :, dy, dx], view, 1)
            )
    if bias is not None:
        out += bias[:, None, None]
    return out[:, ::stride, ::stride]


def group_norm(x: NDArray, groups: int, weight: NDArray, bias: NDArray) -> NDArray:
    g = x.reshape(groups, -1)
    g = (g - g.mean(1, keepdims=True)) / np.sqrt(g.var(1, keepdims=True) + 1e-5)
    return g.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def gelu(x: NDArray) -> NDArray:
    return x * 0.5 * (1 + torch.erf(torch.from_numpy(x / np.sqrt(2))).numpy())


def sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def double(x: NDArray) -> NDArray:
    """Bilinear x2, half-pixel centres: every output pixel is 3/4 of its cell and 1/4 of the next."""
    for axis in (1, 2):
        first, last = np.take(x, [0], axis), np.take(x, [-1], axis)
        before = np.concatenate([first, np.take(x, range(x.shape[axis] - 1), axis)], axis)
        after = np.concatenate([np.take(x, range(1, x.shape[axis]), axis), last], axis)
        even, odd = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
        shape = list(x.shape)
        shape[axis] *= 2
        x = np.stack([even, odd], axis + 1).reshape(shape)
    return x


def restate(
    w: dict[str, NDArray], taps: list[NDArray], x: NDArray, config: ModelConfig
) -> tuple[NDArray, NDArray]:
    """Equations 7, 8, 9, 13, 14 and the projector on one photo; returns structure and features."""

    def norm(value: NDArray, name: str) -> NDArray:
        return group_norm(value, config.norm_groups, w[f"{name}.weight"], w[f"{name}.bias"])

    a = w["structure_encoder.fusion.layer_weights"]
    a = np.exp(a) / np.exp(a).sum()
    fused = np.zeros(())
    for layer, tap in enumerate(taps):
        phi = f"structure_encoder.fusion.transforms.{0 if config.fusion == 'shared' else layer}"
        fused = fused + a[layer] * norm(conv(tap, w[f"{phi}.0.weight"], w[f"{phi}.0.bias"]), f"{phi}.1")
    for i in range(2):
        block = f"structure_encoder.refine.{i}"
        layer_output = gelu(norm(conv(fused, w[f"{block}.0.weight"], None, depthwise=True), f"{block}.1"))
        fused = fused + layer_output if config.depthwise_residual else layer_output
    out = "structure_encoder.output"
    upsampled = double(fused) if config.upsampling == "bilinear" else fused.repeat(2, 1).repeat(2, 2)
    structure = conv(upsampled, w[f"{out}.weight"], w[f"{out}.bias"])
    down = conv(structure, w["structure_decoder.0.0.weight"], None, stride=2, depthwise=True)
    m = conv(
        gelu(norm(down, "structure_decoder.0.1")),
        w["structure_decoder.1.weight"],
        w["structure_decoder.1.bias"],
    )
    r = "gate.residual"
    hidden = gelu(norm(conv(m, w[f"{r}.0.weight"], w[f"{r}.0.bias"]), f"{r}.1"))
    hidden = gelu(norm(conv(hidden, w[f"{r}.3.weight"], w[f"{r}.3.bias"]), f"{r}.4"))
    branch = conv(hidden, w[f"{r}.6.weight"], w[f"{r}.6.bias"])
    modulated = x + w["gate.alpha"] * x * sigmoid(m + branch)
    return structure, conv(modulated, w["projector.weight"], w["projector.bias"])


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"fusion": "shared"},
        {"depthwise_residual": True},
        {"upsampling": "nearest", "output_kernel": 1},
    ],
    ids=lambda choice: ", ".join(choice) or "default",
)
@torch.inference_mode()
def test_network_equals_the_equations(tiny: ModelConfig, choice: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = OVSDINO(replace(tiny, gate_init=0.3, **choice)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():  # scales and biases of norms start at 1 and 0: move them
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    pixels = torch.randn(2, 3, 64, 64)
    encoded = model.encode(pixels)
    taps, x = model.backbone(pixels)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    for photo in range(2):
        structure, features = restate(
            weights,
            [t[photo].double().numpy() for t in taps],
            x[photo].double().numpy(),
            model.config,
        )
        np.testing.assert_allclose(encoded.structure[photo].numpy(), structure, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(encoded.features[photo].numpy(), features, rtol=1e-3, atol=1e-4)


def test_head_equals_equation_1() -> None:
    features, text = torch.randn(2, 5, 3, 4), torch.randn(7, 5)
    found = cosine(features, text)
    for b, n, i, j in ((0, 0, 0, 0), (1, 6, 2, 3), (0, 3, 1, 2)):
        v, t = features[b, :, i, j], text[n]
        assert found[b, n, i, j] == pytest.approx(float(v @ t / (v.norm() * t.norm())), abs=1e-6)
    per_photo = cosine(features, torch.stack([text, text.flip(0)]))
    torch.testing.assert_close(per_photo[1], found[1].flip(0))


# ---- the switches -----------------------------------------------------------------------------------


def test_untrained_gate_is_the_identity(tiny: ModelConfig) -> None:
    network = OVSDINO(tiny).eval()
    assert network.gate is not None
    x, m = torch.randn(2, 192, 4, 4), torch.randn(2, 192, 8, 8)
    torch.testing.assert_close(network.gate(x, m), x, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["modulate", "tanh", "add", "replace"])
@pytest.mark.parametrize("scale", ["scalar", "channel"])
def test_gate_forms_follow_their_formula(tiny: ModelConfig, form: str, scale: str) -> None:
    network = OVSDINO(replace(tiny, gate_form=form, gate_scale=scale, gate_init=0.5)).eval()  # type: ignore[arg-type]
    gate = network.gate
    assert gate is not None
    x, m = torch.randn(1, 192, 4, 4), torch.randn(1, 192, 4, 4)
    r = m + gate.residual(m)
    expected = {
        "modulate": x + 0.5 * x * r.sigmoid(),
        "tanh": x + 0.5 * x * r.tanh(),
        "add": x + 0.5 * m * r.sigmoid(),
        "replace": x * r.sigmoid() + 0.5 * m,
    }[form]
    torch.testing.assert_close(gate(x, m), expected)


def test_gate_learns_from_the_identity(tiny: ModelConfig) -> None:
    network = OVSDINO(tiny)
    network(torch.randn(1, 3, 64, 64)).square().mean().backward()
    assert network.gate is not None
    assert network.gate.alpha.grad is not None
    assert network.gate.alpha.grad.abs() > 0


def test_without_encoder_sam_features_are_asked_for(tiny: ModelConfig) -> None:
    network = OVSDINO(replace(tiny, encoder=False)).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="no encoder: give SAM's features"):
        network(pixels)
    assert network(pixels, torch.randn(1, 128, 8, 8)).shape == (1, 384, 4, 4)


def test_without_gate_the_backbone_output_plays_no_part(tiny: ModelConfig) -> None:
    network = OVSDINO(replace(tiny, gate=False)).eval()
    structure = torch.randn(1, 128, 8, 8)
    first, second = (network(torch.randn(1, 3, 64, 64), structure) for _ in range(2))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 450}, r"multiple of patch_size=16, got 450; the nearest valid sizes are 448 and 464"),
        ({"taps": ()}, "increasing block numbers"),
        ({"taps": (4, 2)}, "increasing block numbers"),
        ({"taps": (0, 2)}, r"in 1\.\.12"),
        ({"taps": (2, 13)}, r"in 1\.\.12"),
        ({"trained_blocks": 13}, r"in 0\.\.12"),
        ({"output_kernel": 2}, "output_kernel must be odd, so that the map keeps its size, got 2"),
        ({"gate_width": 100}, "gate_width must be a multiple of norm_groups=16, got 100"),
    ],
)
def test_impossible_configurations_are_refused(
    tiny: ModelConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny, **change)  # type: ignore[arg-type]


def test_configuration_round_trip(tiny: ModelConfig) -> None:
    import json

    assert ModelConfig.from_dict(json.loads(json.dumps(tiny.to_dict()))) == tiny
    with pytest.raises(ValueError, match=r"missing or unknown fields \['colour', 'taps'\]"):
        ModelConfig.from_dict({**{k: v for k, v in tiny.to_dict().items() if k != "taps"}, "colour": 1})


def test_configurations_of_earlier_versions_mean_what_they_meant(tiny: ModelConfig) -> None:
    old = {key: value for key, value in tiny.to_dict().items() if key not in ADDED_FIELDS}
    assert len(old) == len(tiny.to_dict()) - len(ADDED_FIELDS)
    assert ModelConfig.from_dict(old) == tiny
    assert ModelConfig.from_dict(tiny.to_dict() | {"fusion": "shared"}).fusion == "shared"
