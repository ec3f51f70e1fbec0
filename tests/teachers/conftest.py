"""Small random CLIPs: the tiny architectures with a token table of a few dozen words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn

from pivl_distill.config import TuningSettings
from pivl_distill.data.store import CropStore
from pivl_distill.data.synthetic.people import COLOURS
from pivl_distill.data.vocabulary import LIP20
from teachers.clip import Clip
from teachers.image_features import ImageFeatures, encode_crops
from teachers.text_encoder import Tokenizer, used_token_ids
from teachers.tiny_clip import build_tiny_clip

GARMENTS = ("hat", "shoes", "socks", "pants", "coat", "shirt", "scarf")
SMALL_TEXT_CONFIG = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 16,
    "heads": 2,
    "layers": 1,
}
SMALL_VISION_CONFIGS = {
    "small-rn": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "small-vit": {"image_size": 64, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "small-rn101": {"image_size": 64, "layers": [1, 1, 3, 1], "width": 8, "head_width": 32},
    "small-vit-l-14": {
        "image_size": 56,
        "layers": 3,
        "width": 24,
        "patch_size": 14,
        "head_width": 8,
    },
    "small-average": {
        "image_size": 64,
        "layers": 1,
        "width": 16,
        "patch_size": 16,
        "head_width": 8,
        "pool_type": "avg",
    },
    "small-attentional": {
        "image_size": 64,
        "layers": 1,
        "width": 16,
        "patch_size": 16,
        "head_width": 8,
        "attentional_pool": True,
        "attn_pooler_heads": 4,
    },
    "small-timm": {
        "image_size": 64,
        "timm_model_name": "resnet10t",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
    },
}


@pytest.fixture(scope="session")
def table() -> list[int]:
    """The BPE ids of a reduced token table."""
    return used_token_ids(["a photo of the X person, wearing .", *LIP20.words, *COLOURS, *GARMENTS])


@pytest.fixture(scope="session")
def randomise_norms() -> Callable[[nn.Module], nn.Module]:
    """Randomises a network's norms; those of open_clip's ResNet blocks are initialised to 0."""

    def randomise(network: nn.Module) -> nn.Module:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
            elif isinstance(module, nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
        return network.eval()

    return randomise


@pytest.fixture(scope="session")
def make_clip(table, randomise_norms) -> Callable[..., Clip]:
    """`make_clip(name, seed)` returns a frozen tiny CLIP with random weights."""

    def make(name: str = "tiny_rn", seed: int = 0) -> Clip:
        torch.manual_seed(seed)
        clip = build_tiny_clip(name, table)
        randomise_norms(clip.image)
        randomise_norms(clip.text)
        return clip.freeze()

    return make


@pytest.fixture(scope="session")
def frozen_clip(make_clip) -> Clip:
    """A frozen tiny CLIP that tests only read."""
    return make_clip()


@pytest.fixture(scope="session")
def features(frozen_clip: Clip, band_store: CropStore) -> ImageFeatures:
    """The features of `band_store` by `frozen_clip`."""
    return encode_crops(frozen_clip, band_store, LIP20, TuningSettings(feature_cache_gib=0))


@pytest.fixture(scope="session")
def rows(band_store: CropStore) -> Tensor:
    """The identity of each crop of `band_store`, from 0."""
    return torch.from_numpy(np.unique(band_store.pids, return_inverse=True)[1])


@pytest.fixture
def checkpoint_and_base(
    small_reid_state, tmp_path
) -> Callable[..., tuple[dict[str, Tensor], Path]]:
    """`checkpoint_and_base(cameras=…)` returns a checkpoint and the file of its base CLIP."""

    def make(cameras: int = 0, identities: int = 8) -> tuple[dict[str, Tensor], Path]:
        torch.manual_seed(0)
        clip = open_clip.create_model("small-reid", force_quick_gelu=True)
        nn.init.normal_(clip.token_embedding.weight, std=0.5)
        path = tmp_path / "clip.pt"
        torch.save(clip.state_dict(), path)
        ids = Tokenizer()
        person = [*ids.encode("person."), ids.end]
        words = torch.tensor([ids.start, *ids.encode("a photo of a"), *person])
        state = small_reid_state(cameras=cameras, identities=identities)
        embedded = clip.token_embedding(words).detach()
        state["prompt_learner.token_prefix"] = embedded[None, :5]
        state["prompt_learner.token_suffix"][0, :3] = embedded[5:]
        return state, path

    return make


@pytest.fixture
def open_clip_models(monkeypatch):
    """Register small configurations with open_clip, as `small-rn`, `small-vit` and so on."""
    configs = {
        name: {"embed_dim": 12, "vision_cfg": vision, "text_cfg": SMALL_TEXT_CONFIG}
        for name, vision in SMALL_VISION_CONFIGS.items()
    }
    for name, text in {
        "eos": {"pool_type": "eos", "eos_id": 2},
        "cls": {"embed_cls": True},
    }.items():
        configs[f"small-{name}"] = configs["small-vit"] | {"text_cfg": SMALL_TEXT_CONFIG | text}
    configs["small-cls"]["custom_text"] = True
    for name, config in configs.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
