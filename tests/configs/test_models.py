"""Model presets against open_clip's own registry."""

from __future__ import annotations

import open_clip
import pytest
import yaml
from open_clip.pretrained import get_pretrained_cfg

from clipeval.configs.catalog import CONFIG_DIR, describe, group_options
from clipeval.configs.compose import compose

PRESETS = {
    file.stem: content
    for file in sorted((CONFIG_DIR / "model").glob("*.yaml"))
    if (content := yaml.safe_load(file.read_text())).get("defaults") == ["_preset"]
}
OTHERS = {
    name: content
    for name in group_options("model")
    if name not in PRESETS
    and "about" in (content := yaml.safe_load((CONFIG_DIR / "model" / f"{name}.yaml").read_text()))
}
"""Presets of what open_clip's table does not list: repositories of the hub, in open_clip's form or in transformers'."""
ASKED = {
    ("ViT-B-32-256", "datacomp_s34b_b86k"),
    ("ViT-B-32", "datacomp_xl_s13b_b90k"),
    ("ViT-B-16", "datacomp_xl_s13b_b90k"),
    ("ViT-L-14", "datacomp_xl_s13b_b90k"),
    ("ViT-B-32-quickgelu", "openai"),
    ("ViT-B-16-quickgelu", "openai"),
    ("ViT-L-14-quickgelu", "openai"),
    ("ViT-B-32", "laion2b_s34b_b79k"),
    ("ViT-B-16-SigLIP", "webli"),
    ("ViT-B-16-quickgelu", "dfn2b"),
}


def test_the_presets_that_were_asked_for() -> None:
    there = {(p["name"], p["pretrained"]) for p in PRESETS.values()}
    assert there >= ASKED
    pools = {pair for pair in open_clip.list_pretrained() if pair[1].startswith(("datacomp_", "commonpool_"))}
    assert pools <= there  # every model of the DataComp family that open_clip serves
    assert len(there) == len(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_one_of_open_clips(preset: str) -> None:
    name, tag = PRESETS[preset]["name"], PRESETS[preset]["pretrained"]
    assert (name, tag) in open_clip.list_pretrained()
    weights, architecture = get_pretrained_cfg(name, tag), open_clip.get_model_config(name)
    assert bool(weights.get("quick_gelu")) == bool(architecture.get("quick_gelu"))
    assert describe("model", preset)


@pytest.mark.parametrize("preset", ["vit_b_32_256_datacomp", "vit_b_16_siglip", "vit_l_14_commonpool_xl"])
def test_a_preset_composes(preset: str) -> None:
    model = compose(["suite=none", f"model={preset}"]).model
    assert (model.name, model.pretrained) == (PRESETS[preset]["name"], PRESETS[preset]["pretrained"])
    assert model.slug == f"{model.name}__{model.pretrained}"
    assert model.strict_quickgelu
    assert model.config_dir is None


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_where_it_is_from(preset: str) -> None:
    """The repository is the one that open_clip reads; a licence stands there only where it was confirmed."""
    about, weights = (
        PRESETS[preset]["about"],
        get_pretrained_cfg(PRESETS[preset]["name"], PRESETS[preset]["pretrained"]),
    )
    assert about["source"] == f"https://huggingface.co/{weights['hf_hub'].rpartition('/')[0]}"
    assert about["data"]
    assert set(about) <= {"source", "data", "licence"}


FAMILIES = {
    "PE-Core": 5,
    "worldwide": 4,
    "MobileCLIP-": 4,
    "MobileCLIP2": 6,
    "SigLIP": 26,
    "EVA0": 7,
    "CLIPA": 7,
    "coca": 4,
    "bigG": 5,
    "nllb": 6,
    "xlm-roberta": 2,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_people_publish_now_is_one_word(family: str) -> None:
    """Every tag of these families whose activation is that of its architecture."""
    named = {(p["name"], p["pretrained"]) for p in PRESETS.values() if family in p["name"]}
    tags = {
        (name, tag)
        for name, tag in open_clip.list_pretrained()
        if family in name
        and bool(get_pretrained_cfg(name, tag).get("quick_gelu"))
        == bool(open_clip.get_model_config(name).get("quick_gelu"))
    }
    assert len(named) >= FAMILIES[family]
    assert named == tags


NOT_A_PRESET = {
    ("roberta-ViT-B-32", "laion2b_s12b_b32k"),  # open_clip's tag and its architecture differ in the activation
    ("ViT-B-16-plus-240", "laion400m_e32"),  # open_clip reads the weights of laion400m_e31 for it
}


def test_every_tag_of_open_clip_is_one_word() -> None:
    """But for those whose activation is another than their architecture's, each of which has a twin that is not."""
    tags = set(open_clip.list_pretrained())
    missing = tags - {(p["name"], p["pretrained"]) for p in PRESETS.values()} - NOT_A_PRESET
    for name, tag in missing:
        assert (f"{name}-quickgelu", tag) in tags, (name, tag)
    assert get_pretrained_cfg("ViT-B-16-plus-240", "laion400m_e32")["hf_hub"].endswith("_e31/")


@pytest.mark.parametrize("preset", OTHERS)
def test_a_preset_of_the_hub(preset: str) -> None:
    """It composes, and its weights are those of the page that it names. Whether the hub has it, no test without a network says."""
    model = compose(["suite=none", f"model={preset}"]).model
    if "_target_" in model:
        assert model._target_ == "clipeval.models.transformers.HuggingFace"
        repository = model.path
    else:
        assert model.name.startswith("hf-hub:") and model.pretrained is None
        repository = model.name.removeprefix("hf-hub:")
    assert model.about.source == f"https://huggingface.co/{repository}"
    assert model.about.data and set(model.about) <= {"source", "data", "licence"}
    assert describe("model", preset)
    assert repository.rpartition("/")[2] in model.slug


def test_run_folders_of_presets_differ() -> None:
    assert len({f"{p['name']}__{p['pretrained']}".lower() for p in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize("name", ["quickstart", "vit_b_32_openai"])
def test_a_changed_model_has_a_folder_of_its_own(name: str) -> None:
    plain = compose(["suite=none", f"model={name}"]).model.slug
    for change, mark in (("dimensions=64", "dim-64"), ("text_clean=lower", "text-lower"), ("image_size=96", "size-96")):
        assert compose(["suite=none", f"model={name}", f"model.{change}"]).model.slug == f"{plain}__{mark}"


def test_a_model_in_full() -> None:
    words = [
        "model=open_clip",
        "model.name=ViT-B-32-256",
        "model.pretrained=datacomp_s34b_b86k",
        "model.config_dir=/archs",
    ]
    model = compose(["suite=none", *words]).model
    assert model.slug == "ViT-B-32-256__datacomp_s34b_b86k"
    assert model.config_dir == "/archs"
    assert not model.strict_quickgelu
    assert compose(["suite=none", "model=open_clip", "model.name=hf-hub:org/repo"]).model.pretrained is None


def test_models_beyond_open_clip() -> None:
    folder = compose(["suite=none", "model=hf_transformers", "model.path=/models/clip-v1.5"]).model
    assert folder._target_ == "clipeval.models.transformers.HuggingFace"
    assert folder.name == "clip-v1.5"
    assert folder.slug.startswith("clip-v1.5-")
    words = ["model=custom", "model._target_=package.Model", "+model.width=3"]
    own = compose(["suite=none", *words]).model
    assert (own._target_, own.name, own.slug, own.width) == ("package.Model", "package.Model", "package.Model", 3)


def test_every_model_that_is_offered_was_looked_at() -> None:
    assert set(group_options("model")) == {
        *PRESETS,
        *OTHERS,
        "open_clip",
        "quickstart",
        "hf_transformers",
        "onnx",
        "custom",
    }
