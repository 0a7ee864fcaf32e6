"""Networks of other people, in the sizes that the zoo has them: factories that know nothing of this project."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.networks.named import library
from models.vision_library import torchvision_part

# Sizes of small models of transformers: an encoder of four heads; a decoder of eight, with four of keys and values.
ENCODER: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 70}
DECODER: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 62,
    "max_position_embeddings": 20,
    "use_cache": False,
}

# ---- torchvision -----------------------------------------------------------------------------------------------------


def densenet(classes: int) -> nn.Module:
    """A small DenseNet: every layer reads all layers before it, side by side."""
    made: nn.Module = torchvision_part("models").DenseNet(
        growth_rate=8, block_config=(3, 3, 3), num_init_features=16, num_classes=classes
    )
    return made


def resnext(classes: int) -> nn.Module:
    """A small ResNeXt: grouped convolutions."""
    models = torchvision_part("models")
    made: nn.Module = models.ResNet(
        models.resnet.Bottleneck, [2, 2, 2, 2], num_classes=classes, groups=8, width_per_group=8
    )
    return made


def shufflenet(classes: int) -> nn.Module:
    """ShuffleNetV2 x0.5 of torchvision: shuffled channels, concatenations."""
    made: nn.Module = torchvision_part("models").shufflenet_v2_x0_5(num_classes=classes)
    return made


def swin(classes: int) -> nn.Module:
    """A small Swin transformer of torchvision: windows that are rolled, tables of biases."""
    made: nn.Module = torchvision_part("models").SwinTransformer(
        patch_size=[4, 4],
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=classes,
    )
    return made


def vit(classes: int) -> nn.Module:
    """A small ViT of torchvision: `nn.MultiheadAttention`."""
    made: nn.Module = torchvision_part("models").VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=6,
        hidden_dim=42,
        mlp_dim=70,
        num_classes=classes,
    )
    return made


class Logits(nn.Module):
    """Picks the tensor that the loss is computed from of what a model of transformers gives.

    Args:
        model: a classifier, or a language model.
        last: whether of a language model's logits (N, length, vocabulary) those of the next word are meant.
    """

    def __init__(self, model: nn.Module, *, last: bool = False) -> None:
        super().__init__()
        self.model, self._last = model, last

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        logits = self.model(x).logits
        return logits[:, -1] if self._last else logits


def _of_transformers(config: str, model: str, **settings: Any) -> Any:
    """A model of transformers with drawn weights, by the names of two of its classes and the settings of the first."""
    transformers = library("transformers", model)
    return getattr(transformers, model)(getattr(transformers, config)(**settings))


def gpt2(vocabulary: int) -> nn.Module:
    """A small GPT-2 of transformers: fused queries, keys and values; the head is the embedding."""
    made = _of_transformers(
        "GPT2Config",
        "GPT2LMHeadModel",
        vocab_size=vocabulary,
        n_embd=44,
        n_layer=2,
        n_head=4,
        n_positions=20,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Logits(made, last=True)


def llama(vocabulary: int) -> nn.Module:
    """A small Llama of transformers: fewer heads of keys than of queries, gates, rotated positions."""
    made = _of_transformers(
        "LlamaConfig",
        "LlamaForCausalLM",
        vocab_size=vocabulary,
        head_dim=6,
        **DECODER,
    )
    return Logits(made, last=True)


def bert(vocabulary: int, classes: int) -> nn.Module:
    """A small BERT without a mask."""
    made = _of_transformers(
        "BertConfig",
        "BertForSequenceClassification",
        vocab_size=vocabulary,
        max_position_embeddings=20,
        num_labels=classes,
        **ENCODER,
    )
    return Logits(made)


def distilbert(vocabulary: int, classes: int) -> nn.Module:
    """A small DistilBERT."""
    made = _of_transformers(
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        vocab_size=vocabulary,
        dim=48,
        n_layers=2,
        n_heads=4,
        hidden_dim=70,
        max_position_embeddings=20,
        num_labels=classes,
    )
    return Logits(made)


def phi3(vocabulary: int) -> nn.Module:
    """A small Phi-3: one layer for queries, keys and values of unlike numbers of heads, one for gate and up."""
    made = _of_transformers(
        "Phi3Config",
        "Phi3ForCausalLM",
        vocab_size=vocabulary,
        pad_token_id=0,
        **DECODER,
    )
    return Logits(made, last=True)


def hf_vit(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A small ViT of transformers."""
    made = _of_transformers(
        "ViTConfig",
        "ViTForImageClassification",
        image_size=input_shape[1],
        patch_size=8,
        num_channels=input_shape[0],
        num_labels=classes,
        **ENCODER,
    )
    return Logits(made)


class T5(nn.Module):
    """The encoder of a small T5, relative positions and all, and a linear layer on its mean."""

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        transformers = library("transformers", "an encoder of texts")
        config = transformers.T5Config(
            vocab_size=vocabulary, d_model=48, d_kv=8, num_heads=6, num_layers=2, d_ff=70, use_cache=False
        )
        self.encoder, self.head = transformers.T5EncoderModel(config), nn.Linear(48, classes)

    def forward(self, x: Tensor) -> Any:
        """Logits."""
        return self.head(self.encoder(x).last_hidden_state.mean(1))


# ---- timm ------------------------------------------------------------------------------------------------------------


def convnext_v2(classes: int) -> nn.Module:
    """ConvNeXt V2, Atto: responses that are normalised over all channels."""
    made: nn.Module = library("timm", "convnextv2").create_model("convnextv2_atto", num_classes=classes)
    return made


def ghostnet(classes: int) -> nn.Module:
    """GhostNet, half as wide: half of the channels made of the other half."""
    made: nn.Module = library("timm", "ghostnet").create_model("ghostnet_050", num_classes=classes)
    return made


def mixer(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A small MLP-Mixer: layers along the patches, too."""
    made: nn.Module = library("timm", "mixer").models.MlpMixer(
        img_size=input_shape[1], patch_size=8, num_blocks=2, embed_dim=40, num_classes=classes
    )
    return made
