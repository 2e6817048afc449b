#!/usr/bin/env python3
"""Writes the architecture zoo, tests/goldens/zoo/NAME.zip, from PyTorch. Run by hand; the results are checked in.

usage: golden_zoo.py [NAME...] [--out tests/goldens/zoo] [--list]
needs: torch, torchvision, transformers, timm, onnx, onnxscript, onnxruntime, safetensors, numpy

Every file is one golden as make_goldens.py writes it, at rank 2, zipped: a common architecture at a tiny width with random
weights, exported by one of torch's exporters, and the gradients that torch's autograd finds for LoRA on its sites. Weights
are rounded to bfloat16 (kept as float32), which halves the file. `_dynamo` in a name tells the exporter; the others come from
the torchscript exporter.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import golden_models as gm
import make_goldens as mg
from make_goldens import TEXT_AXES, Recipe, image_variants, noise, text_variants

VOCAB, WIDTH = 60, 16


def roughen(model, seed):
    """Random weights that keep activations around one, norms and biases away from their neutral start, in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=generator)  # noqa: E731
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for p in model.parameters():
            if id(p) in embeddings:
                p.copy_(0.7 * draw(p.shape))
            elif p.dim() > 1:
                p.copy_(1.5 * p[0].numel() ** -0.5 * draw(p.shape))
            else:
                p.add_(0.2 * draw(p.shape))
            p.copy_(p.bfloat16().float())
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_((0.2 * draw(b.shape)).bfloat16().float())
            if name.endswith("running_var"):
                b.copy_((0.5 + draw(b.shape).abs()).bfloat16().float())
    return model.eval()


class Output(nn.Module):
    """One input, one of the model's outputs."""

    def __init__(self, model, output, argument="pixel_values"):
        super().__init__()
        self.model, self.output, self.argument = model, output, argument

    def forward(self, image):
        return self.model(**{self.argument: image})[self.output]


# ------------------------------------------------------------------------------------------------------ recipes


def text(model, output="last_hidden_state", exporter="torchscript", seed=1, causal=False, own_mask=None, **more):
    own_mask = exporter == "torchscript" if own_mask is None else own_mask
    module = gm.TextModel(roughen(model, seed), output, own_mask=own_mask, causal=causal)
    return Recipe(module, exporter, text_variants(VOCAB), output, TEXT_AXES, rank=2, **more)


def image(model, size=16, channels=3, exporter="torchscript", seed=1, output="logits", **more):
    return Recipe(
        roughen(model, seed), exporter, image_variants(channels, size), output, {"image": {0: "batch"}}, rank=2, **more
    )


def signal(model, shape, exporter="torchscript", seed=1, output="logits", **more):
    variants = {"b3": noise("signal", (3, *shape), 7), "b1": noise("signal", (1, *shape), 8)}
    return Recipe(roughen(model, seed), exporter, variants, output, {"signal": {0: "batch"}}, rank=2, **more)


def hf_image(model, output="logits", size=16, **more):
    return image(Output(model, output), size=size, output=output, **more)


def encoder_config(kind, attention="eager", **more):
    """A configuration of the BERT kind: two layers of width 16."""
    return kind(
        attn_implementation=attention,
        **{
            "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "max_position_embeddings": 32, **more,
        },
    )  # fmt: skip


def decoder_config(kind, attention="eager", layers=2, **more):
    return kind(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        num_key_value_heads=1, max_position_embeddings=32, use_cache=False, tie_word_embeddings=False, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, attn_implementation=attention, **more,
    )  # fmt: skip


def albert(exporter, attention):
    from transformers import AlbertConfig, AlbertModel

    config = encoder_config(AlbertConfig, attention, embedding_size=8, num_hidden_groups=1)
    recipe = text(AlbertModel(config, add_pooling_layer=False), exporter=exporter)
    apart = copy.deepcopy(recipe.module)  # one copy of the shared layer a pass: LoRA belongs to the node, not to the weight
    encoder = apart.model.encoder
    encoder.albert_layer_groups.append(copy.deepcopy(encoder.albert_layer_groups[0]))
    encoder.config.num_hidden_groups = 2
    recipe.reference = apart
    return recipe


def texts():
    import transformers as t

    def bare(kind, config, name, **more):
        model = getattr(t, kind)
        options = {} if name in ("distilbert", "electra", "deberta") else {"add_pooling_layer": False}
        return lambda: text(model(config(), **options), **more)

    e, d = encoder_config, decoder_config
    distil = lambda a="eager": t.DistilBertConfig(  # noqa: E731
        vocab_size=VOCAB, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=32, attn_implementation=a
    )
    deberta = lambda: e(  # noqa: E731
        t.DebertaV2Config, relative_attention=True, position_buckets=8, max_relative_positions=16, pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm", share_att_key=False, type_vocab_size=0, position_biased_input=False,
    )  # fmt: skip
    t5 = lambda: t.T5Config(  # noqa: E731
        vocab_size=VOCAB, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2, relative_attention_num_buckets=8,
        relative_attention_max_distance=16, feed_forward_proj="gated-gelu", use_cache=False,
    )  # fmt: skip
    gpt2 = lambda a="eager": t.GPT2Config(  # noqa: E731
        vocab_size=VOCAB, n_positions=32, n_embd=WIDTH, n_layer=2, n_head=2, use_cache=False, attn_implementation=a
    )
    clip = dict(eos_token_id=2, bos_token_id=1, pad_token_id=0, max_position_embeddings=77)
    phi = lambda a: t.PhiConfig(  # noqa: E731
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, partial_rotary_factor=0.5, use_cache=False, attn_implementation=a,
    )  # fmt: skip
    roberta = dict(pad_token_id=0)
    return {
        # wide enough for weights that the runtime keeps as narrow as a quantised or half-precision file has them
        "bert_wide": bare(
            "BertModel", lambda: e(t.BertConfig, hidden_size=64, intermediate_size=128, num_hidden_layers=1, vocab_size=100), "bert"
        ),
        "bert": bare("BertModel", lambda: e(t.BertConfig), "bert"),
        "bert_dynamo": bare("BertModel", lambda: e(t.BertConfig, "sdpa"), "bert", exporter="dynamo", opset=20),
        "distilbert": bare("DistilBertModel", distil, "distilbert"),
        "distilbert_dynamo": bare("DistilBertModel", lambda: distil("sdpa"), "distilbert", exporter="dynamo"),
        "albert": lambda: albert("torchscript", "eager"),
        "roberta": bare("RobertaModel", lambda: e(t.RobertaConfig, **roberta), "roberta", opset=14),
        "deberta_v2": bare("DebertaV2Model", deberta, "deberta", own_mask=False),
        "deberta_v2_dynamo": bare("DebertaV2Model", deberta, "deberta", exporter="dynamo"),
        "electra": bare("ElectraModel", lambda: e(t.ElectraConfig, embedding_size=8), "electra", opset=13),
        "mpnet": bare("MPNetModel", lambda: e(t.MPNetConfig), "mpnet", own_mask=False),
        "t5_encoder": lambda: text(t.T5EncoderModel(t5()), opset=16),
        "gpt2": lambda: text(t.GPT2Model(gpt2()), causal=True),
        "gpt2_dynamo": lambda: text(t.GPT2Model(gpt2("sdpa")), exporter="dynamo"),
        "llama": lambda: text(t.LlamaForCausalLM(d(t.LlamaConfig)), "logits", causal=True),
        "qwen2": lambda: text(t.Qwen2ForCausalLM(d(t.Qwen2Config)), "logits", causal=True),
        "qwen2_dynamo": lambda: text(t.Qwen2ForCausalLM(d(t.Qwen2Config, "sdpa")), "logits", exporter="dynamo"),
        "gemma": lambda: text(t.GemmaForCausalLM(d(t.GemmaConfig, head_dim=8)), "logits", causal=True),
        "gemma2_dynamo": lambda: text(
            t.Gemma2ForCausalLM(d(t.Gemma2Config, "eager", head_dim=8, query_pre_attn_scalar=8)), "logits", exporter="dynamo"
        ),
        "mistral": lambda: text(t.MistralForCausalLM(d(t.MistralConfig, sliding_window=None)), "logits", causal=True),
        "phi": lambda: text(t.PhiModel(phi("eager")), causal=True),
        "phi_dynamo": lambda: text(t.PhiModel(phi("sdpa")), exporter="dynamo"),
        "modernbert_dynamo": lambda: text(
            t.ModernBertModel(
                e(t.ModernBertConfig, "sdpa", pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
            ),
            exporter="dynamo",
        ),
        "clip_text": lambda: text(
            t.CLIPTextModel(e(t.CLIPTextConfig, **clip)), causal=True
        ),
        "clip_text_dynamo": lambda: text(
            t.CLIPTextModel(e(t.CLIPTextConfig, "sdpa", **clip)),
            "pooler_output", exporter="dynamo",
        ),
    }  # fmt: skip


def vision_transformers():
    import transformers as t

    common = dict(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    swin = lambda: t.SwinConfig(  # noqa: E731
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, mlp_ratio=2.0, num_labels=5
    )
    mobilevit = lambda: t.MobileViTConfig(  # noqa: E731
        image_size=32, output_stride=8, hidden_sizes=[8, 8, 8], neck_hidden_sizes=[4, 4, 6, 8, 8, 8, 16], num_attention_heads=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0, mlp_ratio=2.0,
        expand_ratio=2.0, num_labels=5, patch_size=2,
    )  # fmt: skip
    convnext = lambda: t.ConvNextConfig(  # noqa: E731
        num_stages=2, hidden_sizes=[8, 12], depths=[1, 1], patch_size=4, image_size=16, num_labels=5
    )
    eager = dict(attn_implementation="eager")
    return {
        "vit": lambda: hf_image(t.ViTForImageClassification(t.ViTConfig(**common, **eager))),
        "vit_dynamo": lambda: hf_image(t.ViTForImageClassification(t.ViTConfig(**common)), exporter="dynamo"),
        "deit": lambda: hf_image(t.DeiTForImageClassification(t.DeiTConfig(**common, **eager)), opset=13),
        "swin": lambda: hf_image(t.SwinForImageClassification(swin())),
        "mobilevit_dynamo": lambda: folded(
            hf_image(t.MobileViTForImageClassification(mobilevit()), size=32, exporter="dynamo", seed=6), settle=True
        ),
        "convnext": lambda: hf_image(t.ConvNextForImageClassification(convnext())),
        "convnext_dynamo": lambda: hf_image(t.ConvNextForImageClassification(convnext()), exporter="dynamo"),
        "clip_vision": lambda: hf_image(t.CLIPVisionModel(t.CLIPVisionConfig(**common, **eager)), "pooler_output"),
    }


def fold_norms(model, example):
    """Folds each batch norm into the convolution whose output it reads, as exporters do in evaluation mode."""
    made, pairs = {}, []

    def watch(module, inputs, output):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            made[id(output)] = (module, output)  # the output is kept, so that no other tensor takes its id

    hooks = [m.register_forward_hook(watch) for m in model.modules()]
    with torch.no_grad():
        model.eval()(example)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        both = nn.utils.fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = both.weight, both.bias
        # The module's class stays: some models look at it. A norm of neutral statistics is exactly the identity.
        norm.forward = lambda x: x
    return model


def folded(recipe, settle=False):
    """The recipe of a CNN with its batch norms folded; `settle` first gives them the statistics of the example, without which the
    signal dies out in a deep network, and its gradients with it."""
    example = torch.tensor(next(iter(recipe.variants["b3"].values())))
    if settle:
        for m in recipe.module.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.momentum = 1.0
        with torch.no_grad():
            recipe.module.train()(example)
        recipe.module.eval()
    model = fold_norms(recipe.module, example)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16().float())
    return recipe


class SqueezeNet(nn.Module):
    def __init__(self):
        super().__init__()
        from torchvision.models.squeezenet import Fire

        pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), pool(), Fire(8, 4, 8, 8), Fire(16, 4, 8, 8), pool(), Fire(16, 6, 12, 12)
        )
        self.classifier = nn.Sequential(nn.Conv2d(24, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, image):
        return self.classifier(self.features(image)).flatten(1)


class Mnas(nn.Module):
    """MnasNet's blocks at small widths."""

    def __init__(self):
        super().__init__()
        from torchvision.models.mnasnet import _stack

        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(_stack(8, 8, 3, 2, 3, 1, 0.1), _stack(8, 12, 5, 2, 3, 2, 0.1))
        self.classifier = nn.Linear(12, 5)

    def forward(self, image):
        return self.classifier(self.blocks(self.stem(image)).mean([2, 3]))


class Ghost(nn.Module):
    """GhostNet's bottlenecks, with squeeze and excitation, at small widths."""

    def __init__(self):
        super().__init__()
        from timm.models.ghostnet import GhostBottleneck

        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(GhostBottleneck(8, 12, 8), GhostBottleneck(8, 16, 12, stride=2, se_ratio=0.25))
        self.classifier = nn.Linear(12, 5)

    def forward(self, image):
        return self.classifier(F.adaptive_avg_pool2d(self.blocks(self.stem(image)), 1).flatten(1))


class UNet(nn.Module):
    """Two levels; `up` chooses transposed convolutions, bilinear or nearest resizing, or a pixel shuffle."""

    def __init__(self, up, norm):
        super().__init__()
        block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1), norm(o), nn.ReLU())  # noqa: E731
        self.down1, self.down2, self.bottom = block(3, 6), block(6, 8), block(8, 8)
        make = {
            "transpose": lambda: nn.ConvTranspose2d(8, 8, 2, 2),
            "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            "corners": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            "nearest": lambda: nn.Upsample(scale_factor=2),
            "shuffle": lambda: nn.Sequential(nn.Conv2d(8, 32, 1), nn.PixelShuffle(2)),
        }[up]
        self.grow2, self.grow1 = make(), make()
        self.up2, self.up1, self.head = block(16, 8), block(14, 6), nn.Conv2d(6, 2, 1)

    def forward(self, image):
        a = self.down1(image)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.avg_pool2d(b, 2))
        b = self.up2(torch.cat([self.grow2(c), b], 1))
        return self.head(self.up1(torch.cat([self.grow1(b), a], 1)))


def cnns():
    import transformers as t
    import torchvision.models as tv
    from torchvision.models.densenet import DenseNet
    from torchvision.models.efficientnet import MBConvConfig
    from torchvision.models.mobilenetv3 import InvertedResidualConfig

    resnet = lambda kind="basic": t.ResNetForImageClassification(  # noqa: E731
        t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type=kind, num_labels=5)
    )
    regnet = lambda: t.RegNetForImageClassification(  # noqa: E731
        t.RegNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], groups_width=4, layer_type="y", num_labels=5)
    )
    mobilenet_v2 = lambda: tv.MobileNetV2(  # noqa: E731
        5, width_mult=0.25, round_nearest=4, inverted_residual_setting=[[1, 8, 1, 1], [3, 16, 2, 2], [3, 32, 1, 2]]
    )
    v3 = [
        InvertedResidualConfig(8, 3, 16, 8, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(8, 5, 24, 12, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(12, 5, 24, 12, True, "HS", 1, 1, 1.0),
    ]
    efficient = [MBConvConfig(1, 3, 1, 8, 8, 1, 1.0, 1.0), MBConvConfig(3, 5, 2, 8, 12, 2, 1.0, 1.0)]
    return {
        "resnet": lambda: folded(hf_image(resnet())),
        "resnet_bottleneck_dynamo": lambda: folded(hf_image(resnet("bottleneck"), exporter="dynamo", opset=21)),
        "mobilenet_v1": lambda: folded(image(MobileNetV1(), opset=13)),
        "mobilenet_v2": lambda: folded(image(mobilenet_v2(), size=32)),
        "mobilenet_v3": lambda: folded(image(tv.MobileNetV3(v3, 16, num_classes=5), size=32)),
        "mobilenet_v3_dynamo": lambda: folded(image(tv.MobileNetV3(v3, 16, num_classes=5), size=32, exporter="dynamo")),
        "efficientnet": lambda: folded(image(tv.EfficientNet(efficient, 0.0, num_classes=5, last_channel=16), size=32)),
        "efficientnet_dynamo": lambda: folded(
            image(tv.EfficientNet(efficient, 0.0, num_classes=5, last_channel=16), size=32, exporter="dynamo")
        ),
        "shufflenet_v2": lambda: folded(image(tv.ShuffleNetV2([2, 1, 1], [8, 8, 16, 16, 16], num_classes=5), size=32)),
        "squeezenet": lambda: image(SqueezeNet(), size=32),
        "densenet": lambda: folded(image(DenseNet(4, (2, 2), 8, bn_size=2, num_classes=5), size=32)),
        "regnet": lambda: folded(hf_image(regnet(), opset=15)),
        "mnasnet": lambda: folded(image(Mnas())),
        "ghostnet": lambda: folded(image(Ghost())),
        "unet_transpose": lambda: image(UNet("transpose", lambda c: nn.GroupNorm(2, c)), output="map", seed=2),
        "unet_bilinear": lambda: image(UNet("bilinear", nn.InstanceNorm2d), output="map", opset=13),
        "unet_corners_dynamo": lambda: folded(image(UNet("corners", nn.BatchNorm2d), output="map", exporter="dynamo")),
        "unet_nearest_dynamo": lambda: image(UNet("nearest", lambda c: nn.GroupNorm(2, c)), output="map", exporter="dynamo"),
        "unet_shuffle": lambda: image(UNet("shuffle", nn.InstanceNorm2d), output="map"),
    }  # fmt: skip


class MobileNetV1(nn.Module):
    """Depthwise-separable blocks: depthwise 3×3 and pointwise convolutions with batch norm and ReLU."""

    def __init__(self):
        super().__init__()
        conv = lambda i, o, k, s, g: nn.Sequential(  # noqa: E731
            nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), nn.ReLU()
        )
        separable = lambda i, o, s: nn.Sequential(conv(i, i, 3, s, i), conv(i, o, 1, 1, 1))  # noqa: E731
        self.features = nn.Sequential(conv(3, 8, 3, 2, 1), separable(8, 12, 1), separable(12, 16, 2), separable(16, 16, 1))
        self.pool, self.fc = nn.AvgPool2d(4), nn.Linear(16, 5)

    def forward(self, image):
        return self.fc(self.pool(self.features(image)).flatten(1))


class Tcn(nn.Module):
    """Causal dilated 1-D convolutions with residuals."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(i, 8, 3, dilation=d) for i, d in [(4, 1), (8, 2), (8, 4)])
        self.skip, self.fc = nn.Conv1d(4, 8, 1), nn.Linear(8, 5)

    def forward(self, signal):
        x = self.skip(signal)
        for i, conv in enumerate(self.convs):
            y = F.pad(x if i else signal, (2 * conv.dilation[0], 0))
            x = F.relu(x + F.elu(conv(y)))
        return self.fc(x[:, :, -1])


class DsCnn(nn.Module):
    """Keyword spotting on a spectrogram: a rectangular stem, then depthwise-separable blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, (10, 4), (2, 2), (5, 1))
        self.depthwise = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(2))
        self.pointwise = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))
        self.fc = nn.Linear(8, 5)

    def forward(self, signal):
        x = F.relu(self.stem(signal))
        for d, p in zip(self.depthwise, self.pointwise, strict=True):
            x = F.relu(p(F.relu(d(x))))
        return F.log_softmax(self.fc(x.mean([2, 3])), -1)


class Crnn(nn.Module):
    """Convolutions over a spectrogram, a recurrent layer over time, a classifier."""

    def __init__(self, cell=nn.GRU, bidirectional=True):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, (3, 5), (2, 1), (1, 2))
        self.rnn = cell(6 * 4, 6, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear(12 if bidirectional else 6, 5)

    def forward(self, signal):
        x = F.relu(self.conv(signal)).flatten(1, 2).transpose(1, 2)
        return self.fc(self.rnn(x)[0][:, -1])


class Recurrent(nn.Module):
    """Frames through a linear layer, two recurrent layers, and a classifier over their last state."""

    def __init__(self, cell):
        super().__init__()
        self.embed, self.rnn, self.fc = nn.Linear(4, 8), cell(8, 6, num_layers=2, batch_first=True), nn.Linear(6, 5)

    def forward(self, signal):
        return self.fc(self.rnn(torch.tanh(self.embed(signal)))[0][:, -1])


class PointNet(nn.Module):
    """Points through a learnt alignment (a 3×3 matrix a cloud), shared layers, and a maximum over the points."""

    def __init__(self):
        super().__init__()
        layer = lambda i, o: nn.Sequential(nn.Conv1d(i, o, 1), nn.ReLU())  # noqa: E731
        self.align, self.matrix = layer(3, 8), nn.Linear(8, 9)
        self.shared, self.fc = nn.Sequential(layer(3, 8), layer(8, 12)), nn.Linear(12, 5)

    def forward(self, signal):
        matrix = self.matrix(self.align(signal).amax(2)).view(-1, 3, 3) + torch.eye(3, dtype=signal.dtype)
        x = torch.bmm(signal.transpose(1, 2), matrix).transpose(1, 2)
        return F.log_softmax(self.fc(self.shared(x).amax(2)), 1)


class Volume(nn.Module):
    """3-D convolutions, as for video or scans: strided, grouped, and transposed."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv3d(2, 6, 3, 2, 1), nn.Conv3d(6, 6, (1, 3, 3), padding=(0, 1, 1), groups=2)
        self.up, self.head = nn.ConvTranspose3d(6, 4, 2, 2), nn.Conv3d(4, 3, 1)

    def forward(self, signal):
        x = F.silu(self.b(F.softplus(self.a(signal))))
        return self.head(F.mish(self.up(F.max_pool3d(x, (1, 2, 2), (1, 1, 1)))))


class Kernels(nn.Module):
    """Kernels of several taps and recurrent weights, each large enough to stay in its file's type: strided, dilated, grouped and transposed
    convolutions, one over time, and recurrent layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, (5, 9), 2, (2, 4)), nn.Conv2d(32, 32, 3, dilation=2, padding=2)
        self.c, self.up = nn.Conv2d(32, 64, 3, padding=1, groups=2), nn.ConvTranspose2d(64, 16, 2, 2)
        self.grouped = nn.ConvTranspose2d(64, 64, 3, 1, 1, groups=4, bias=False)
        self.time = nn.Conv1d(16, 64, 5, padding=2)
        self.both = nn.LSTM(64, 32, batch_first=True, bidirectional=True)
        self.gru, self.fc = nn.GRU(64, 32, batch_first=True), nn.Linear(32, 5)

    def forward(self, image):
        x = torch.relu(self.b(torch.tanh(self.a(image))))
        x = self.up(torch.tanh(self.grouped(torch.relu(self.c(x))))).mean(2)
        return self.fc(self.gru(self.both(torch.tanh(self.time(x)).transpose(1, 2))[0])[0][:, -1])


class Activations(nn.Module):
    """One 1×1 convolution before each activation that none of the architectures has."""

    def __init__(self, more=()):
        super().__init__()
        self.acts = nn.ModuleList([
            nn.ELU(), nn.SELU(), nn.CELU(0.7), nn.Softplus(), nn.Softsign(), nn.Hardsigmoid(), nn.Mish(), nn.PReLU(6),
            nn.LeakyReLU(0.1), nn.Hardtanh(-0.5, 0.8), nn.LogSigmoid(), nn.Softmin(1), nn.GLU(1), nn.Tanhshrink(),
            nn.GELU("tanh"), nn.LPPool1d(2, 2), *more,
        ])  # fmt: skip
        self.convs = nn.ModuleList(nn.Conv1d(3, 6, 1) for _ in self.acts)
        self.back = nn.Conv1d(6, 3, 1)

    def forward(self, signal):
        total = self.back(self.convs[0](signal)).mean(2)
        for act, conv in zip(self.acts, self.convs, strict=True):
            y = act(conv(signal)).mean(2)
            # unequal shares: those of a softmax would cancel
            total = total + (y * torch.linspace(-1.0, 1.5, y.shape[1], dtype=y.dtype)).sum(1, keepdim=True)
        return total


def others():
    import transformers as t

    wav2vec = lambda **more: t.Wav2Vec2Model(  # noqa: E731
        t.Wav2Vec2Config(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
            conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2, apply_spec_augment=False, attn_implementation="eager", **more,
        )  # fmt: skip
    )

    def wav(exporter="torchscript", **more):
        model = wav2vec(**more)
        nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
        recipe = signal(Speech(model), (160,), exporter, output="last_hidden_state")
        return recipe

    whisper = lambda: t.WhisperConfig(  # noqa: E731
        d_model=WIDTH, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=8,
        max_source_positions=8, vocab_size=VOCAB, attn_implementation="eager", pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return {
        "tcn": lambda: signal(Tcn(), (4, 20)),
        "tcn_dynamo": lambda: signal(Tcn(), (4, 20), "dynamo"),
        "ds_cnn": lambda: signal(DsCnn(), (1, 20, 10)),
        "crnn": lambda: signal(Crnn(), (1, 8, 12)),
        "crnn_bilstm": lambda: signal(Crnn(nn.LSTM), (1, 8, 12)),
        "crnn_lstm_dynamo": lambda: signal(Crnn(nn.LSTM, False), (1, 8, 12), "dynamo"),
        "lstm": lambda: signal(Recurrent(nn.LSTM), (10, 4)),
        "gru": lambda: signal(Recurrent(nn.GRU), (10, 4), opset=14),
        "rnn": lambda: signal(Recurrent(nn.RNN), (10, 4)),
        "wav2vec2": lambda: wav(),
        "wav2vec2_stable": lambda: wav("dynamo", do_stable_layer_norm=True, feat_extract_norm="layer"),
        "whisper_encoder": lambda: signal(Speech(WhisperEncoder(whisper())), (8, 16), output="last_hidden_state"),
        "kernels": lambda: image(Kernels(), size=16),
        "pointnet": lambda: signal(PointNet(), (3, 12)),
        "volume": lambda: signal(Volume(), (2, 4, 8, 8), output="map"),
        "activations": lambda: signal(Activations(), (3, 12)),
        "activations_dynamo": lambda: signal(
            Activations([nn.Softshrink(0.1), nn.Hardshrink(0.1), nn.Threshold(0.1, 0.0)]), (3, 12), "dynamo"
        ),
    }


class Speech(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, signal):
        return self.model(signal)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=gm.REPO / "tests/goldens/zoo")
    parser.add_argument("--list", action="store_true", help="list the names")
    options = parser.parse_args()
    known = {**texts(), **vision_transformers(), **cnns(), **others()}
    if options.list:
        print("\n".join(known))
        return 0
    failed = []
    for name in options.names or known:
        torch.manual_seed(0)
        try:
            print(mg.make(name, known[name](), options.out, packed=True), flush=True)
        except Exception as e:  # one architecture that does not export must not hide the others
            failed.append(name)
            print(f"{name}: FAILED: {type(e).__name__}: {' '.join(str(e).split())[:300]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
