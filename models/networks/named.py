"""Usual networks for small devices, as torchvision, timm and transformers make them, fitted to inputs and classes.

The first convolution takes as many channels as inputs have. Where a side of an image is below 64 pixels it has stride
1, so that the last layers, which see a 32nd of every side, still see more than one position; patches of vit-tiny are 4
pixels wide there instead of 16. Weights are drawn as the library draws them.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from models.errors import SettingError
from models.networks.spec import PADDING
from models.vision_library import torchvision_part

Shape = tuple[int, ...]

_SMALL = 64  # pixels


def mobilenet_v3_small(input_shape: Shape, classes: int, width_mult: float = 1.0) -> nn.Module:
    """MobileNetV3-Small (Howard et al. 2019), of torchvision."""
    return _of_torchvision("mobilenet_v3_small", input_shape, classes, width_mult=width_mult)


def efficientnet_b0(input_shape: Shape, classes: int) -> nn.Module:
    """EfficientNet-B0 (Tan and Le 2019), of torchvision."""
    return _of_torchvision("efficientnet_b0", input_shape, classes)


def convnext_tiny(input_shape: Shape, classes: int) -> nn.Module:
    """ConvNeXt-Tiny (Liu et al. 2022), of torchvision; its first convolution keeps its stride of 4."""
    return _of_torchvision("convnext_tiny", input_shape, classes)


def resnet_18(input_shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 (He et al. 2016), of torchvision."""
    return _of_torchvision("resnet18", input_shape, classes)


def resnet_50(input_shape: Shape, classes: int) -> nn.Module:
    """ResNet-50 (He et al. 2016), of torchvision."""
    return _of_torchvision("resnet50", input_shape, classes)


def mobilenet_v4_small(input_shape: Shape, classes: int) -> nn.Module:
    """MobileNetV4-Conv-S (Qin et al. 2024), of timm."""
    channels = _image(input_shape, "mobilenet-v4-small")
    made = library("timm", "mobilenet-v4-small").create_model(
        "mobilenetv4_conv_small", num_classes=classes, in_chans=channels
    )
    return _fitted(made, input_shape)


def vit_tiny(input_shape: Shape, classes: int) -> nn.Module:
    """ViT-Ti (Touvron et al. 2021), of timm: 12 layers of 3 heads, 192 features."""
    channels, sides = _image(input_shape, "vit-tiny"), input_shape[1:]
    patch = 4 if min(sides) < _SMALL else 16
    if any(side % patch for side in sides):
        raise SettingError("model", "vit-tiny", f"a network for {sides} inputs; its patches are {patch} pixels wide")
    made: nn.Module = library("timm", "vit-tiny").create_model(
        "vit_tiny_patch16_224", num_classes=classes, in_chans=channels, img_size=sides, patch_size=patch
    )
    return made


class _Logits(nn.Module):
    """Tokens (N, length) → logits (N, classes) of a classifier of transformers; padding is not attended to."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, tokens_NT: Tensor) -> Any:
        """Logits."""
        return self.classifier(tokens_NT, attention_mask=tokens_NT.ne(PADDING).long()).logits


def bert_tiny(input_shape: Shape, classes: int, vocabulary: int) -> nn.Module:
    """BERT of 2 layers of 2 heads, 128 features (Turc et al. 2019), of transformers."""
    if not vocabulary:
        raise SettingError("model", "bert-tiny", "a network for these inputs; bert-tiny takes texts")
    transformers = library("transformers", "bert-tiny")
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=input_shape[0],
        num_labels=classes,
        pad_token_id=PADDING,
    )
    return _Logits(transformers.BertForSequenceClassification(config))


def _of_torchvision(function: str, input_shape: Shape, classes: int, **more: float) -> nn.Module:
    _image(input_shape, function.replace("_", "-"))
    made: nn.Module = getattr(torchvision_part("models"), function)(weights=None, num_classes=classes, **more)
    return _fitted(made, input_shape)


def _image(input_shape: Shape, name: str) -> int:
    """Channels of an image."""
    if len(input_shape) != 3:
        raise SettingError("model", name, f"a network for {input_shape} inputs; {name} takes images")
    return input_shape[0]


def _fitted(network: nn.Module, input_shape: Shape) -> nn.Module:
    """Put a first convolution in that fits the inputs."""
    path, first = next((path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    small = min(input_shape[1:]) < _SMALL and first.stride == (2, 2)
    if first.in_channels == input_shape[0] and not small:
        return network
    layer = nn.Conv2d(
        input_shape[0],
        first.out_channels,
        kernel_size=first.kernel_size,  # type: ignore[arg-type]
        stride=1 if small else first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    owner, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(owner), leaf, layer)
    return network


def library(package: str, name: str) -> ModuleType:
    """Import a library that is not always there; timm itself imports torchvision.

    Raises:
        SettingError: it is not installed.
    """
    try:
        torchvision_part("models")
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise SettingError("model", name, f"a network of {package}: pip install 'flotilla[networks]'") from error
