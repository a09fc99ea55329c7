"""The registry of published results: what it holds adds up, and a model is found by any of its names."""

from __future__ import annotations

import csv
import subprocess
import sys
import time

import pytest

from clipeval.results.published import COLUMNS, find, registry, rows, rows_of_model, rows_of_task, sources
from clipeval.results.published.names import canonical_name, namesake, needs_quickgelu, of_record, published_names


def wide(source: str):
    """A source's values, a row for each model and a column for each (key, metric); and its printed averages."""
    found = rows(sources=[source])
    printed = found[found["metric"] == "average"].set_index(["model", "pretrained"])["value"]
    scores = found[found["metric"] != "average"]
    return scores.pivot(index=["model", "pretrained"], columns=["key", "metric"], values="value"), printed


def mains(columns):
    """The columns that hold the main metrics of the 38 sets."""
    main = {(key, metric) for key, (_, metric) in COLUMNS.items()}
    return [column for column in columns if column in main]


def test_the_table_is_tidy():
    found = rows()
    assert tuple(found.columns) == registry.COLUMNS
    assert not found.isna().any().any()
    assert not found.duplicated(["source", "model", "pretrained", "key", "metric"]).any()
    assert set(found["source"]) == {source.name for source in sources()}
    assert set(found["recipe"]) <= registry.RECIPES.keys()
    assert found.loc[~found["metric"].str.startswith("count_"), "value"].between(0, 1).all()
    assert found["date"].str.fullmatch(r"\d{4}-\d\d-\d\d").all()
    printed = found[found["digits"] < registry.FULL]
    assert (
        printed.apply(lambda row: round(row["value"], row["digits"]), axis=1) - printed["value"]
    ).abs().max() < 1e-12
    sizes = found.groupby("source")[["model", "pretrained"]].apply(lambda part: len(part.drop_duplicates()))
    assert (sizes["openclip_38"], sizes["openclip_retrieval"], sizes["openclip_multilingual"]) == (121, 121, 123)
    assert (sizes["mobileclip"], sizes["mteb"]) == (14, 20)


def test_each_source_has_a_page_that_says_how_it_was_read():
    for source in sources():
        page = (registry.FOLDER / f"{source.name}.md").read_text()
        for word in ("**What was run.**", "**File", "**Precision**", "**Prompts**", "**Digits**"):
            assert word in page, (source.name, word)
        assert source.recipe in registry.RECIPES


def test_open_clips_averages_over_38():
    scores, printed = wide("openclip_38")
    apart = (scores[mains(scores.columns)].mean(axis=1) - printed).abs()
    assert len(mains(scores.columns)) == 38
    assert (apart <= 0.0000501).sum() == 118  # for three models the rounding of the 38 shows in the last digit
    assert apart.max() <= 0.0001


def test_open_clips_average_over_19_retrieval_scores():
    scores, printed = wide("openclip_retrieval")
    assert scores.shape == (121, 19)
    assert (scores.mean(axis=1) - printed).abs().max() < 0.00006


def test_open_clips_averages_over_languages():
    scores, printed = wide("openclip_multilingual")
    by_language = [column for column in scores.columns if not column[0].endswith("/avg")]
    assert (scores[by_language].mean(axis=1) - printed).abs().max() < 0.0000501
    for key, languages in (("crossmodal3600", 36), ("multilingual_mscoco_captions", 11)):
        for metric in {metric for _, metric in scores.columns}:
            mine = [c for c in by_language if c[0].startswith(f"{key}/") and c[1] == metric]
            assert len(mine) == languages
            assert (scores[mine].mean(axis=1) - scores[f"{key}/avg", metric]).abs().max() < 0.0000501


def test_apples_averages_over_38():
    scores, printed = wide("mobileclip")
    means = scores[mains(scores.columns)].mean(axis=1)
    assert len(means) == 14
    assert (means.round(3) == printed).all()
    assert means["MobileCLIP2-S0", "dfndr2b"] == pytest.approx(0.5967, abs=0.00005)


def test_open_clips_two_tables_agree_where_they_overlap():
    recalls, _ = wide("openclip_retrieval")
    main, _ = wide("openclip_38")
    for key in ("retrieval/flickr_1k_test_image_text_retrieval", "retrieval/mscoco_2014_5k_test_image_text_retrieval"):
        mean = (recalls[key, "image_retrieval_recall@1"] + recalls[key, "text_retrieval_recall@1"]) / 2
        assert (mean - main[key, "mean_recall@1"]).abs().max() < 0.000101


OPENAI = ("ViT-B-32-quickgelu", "openai")


@pytest.mark.parametrize(
    ("name", "pretrained", "hub", "expected"),
    [
        ("ViT-B-32-quickgelu", "openai", None, OPENAI),
        ("ViT-B/32-quickgelu", "openai", None, OPENAI),
        ("openai/clip-vit-base-patch32", None, None, OPENAI),
        ("hf-hub:openai/clip-vit-base-patch32", None, None, OPENAI),
        ("clip-vit-base-patch32", None, None, OPENAI),
        ("anything", None, "openai/clip-vit-base-patch32", OPENAI),
        ("hf-hub:timm/vit_base_patch32_clip_224.openai", None, None, OPENAI),
        ("ViT-B-32", "laion2b-s34b-b79k", None, ("ViT-B-32", "laion2b_s34b_b79k")),
        ("ViT-B-32", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None, ("ViT-B-32", "laion2b_s34b_b79k")),
        ("hf-hub:apple/DFN2B-CLIP-ViT-B-16", None, None, ("ViT-B-16-quickgelu", "dfn2b")),
        ("hf-hub:apple/DFN2B-CLIP-ViT-B-16", "/runs/epoch_3.pt", None, None),  # trained on from there
        ("hf-hub:apple/DFN2B-CLIP-ViT-B-16@1a2b", None, None, None),
        ("siglip-base-patch16-224", None, None, ("ViT-B-16-SigLIP", "webli")),
        ("google/siglip2-so400m-patch14-384", None, None, ("ViT-SO400M-14-SigLIP2-378", "webli")),
        ("hf-hub:apple/MobileCLIP-B-LT", None, None, ("MobileCLIP-B", "datacompdr_lt")),
        ("MobileCLIP-S3", "hf-hub:apple/MobileCLIP-S3", None, ("MobileCLIP-S3", "hf-hub:apple/MobileCLIP-S3")),
        ("ViT-B-32", "/checkpoints/epoch_3.pt", None, None),
        ("nobodys-model", None, None, None),
        (None, None, None, None),
    ],
)
def test_a_model_by_any_of_its_names(name, pretrained, hub, expected):
    assert canonical_name(name, pretrained, hub=hub) == expected


PLACE = "clip-vit-base-patch32"
OF_HUB = {"slug": f"openai-{PLACE}", "name": PLACE, "pretrained": None, "hub": f"openai/{PLACE}"}
OPENAI_FILE = "8d81fccdc1826d09"


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (OF_HUB, OPENAI),
        (
            {key: value for key, value in OF_HUB.items() if key != "hub"} | {"weights": "0" * 16},
            OPENAI,
        ),  # an older record
        ({"slug": "ViT-B-32__openai", "name": "ViT-B-32", "pretrained": "openai"}, ("ViT-B-32", "openai")),
        # a fine-tuned one in a folder of the same name; and as records said it before they said `own_weights`
        ({"slug": f"{PLACE}-1a2b3c4d", "name": PLACE, "pretrained": None, "own_weights": True}, None),
        ({"slug": f"{PLACE}-1a2b3c4d", "name": PLACE, "pretrained": None}, None),
        ({"slug": f"{PLACE}-1a2b3c4d__size-336", "name": PLACE, "pretrained": None}, None),
        ({"name": "local-dir:/models/CLIP-ViT-B-32-laion2B-s34B-b79K", "pretrained": None}, None),
        ({"name": "ViT-B-32", "pretrained": "./laion/CLIP-ViT-B-32-laion2B-s34B-b79K"}, None),
        ({"name": "ViT-B-32", "pretrained": "openai.pt"}, None),
        # a file that is called like a tag, a model in memory that is called like a published one
        ({"name": "ViT-B-32", "pretrained": "openai", "own_weights": True}, None),
        ({"slug": PLACE, "name": PLACE, "pretrained": None, "weights": "0" * 16}, None),
        ({"name": "openai/clip-vit-base-patch32", "pretrained": None, "own_weights": True}, None),
        # unless the weights are the published ones
        ({"name": "x", "pretrained": "x.pt", "own_weights": True, "weights": OPENAI_FILE}, OPENAI),
        ({**OF_HUB, "own_weights": True}, None),  # with an adapter
    ],
)
def test_a_name_given_to_weights_of_ones_own_says_nothing_of_them(model, published):
    assert canonical_name(**of_record(model)) == published
    found = find(**of_record(model))
    assert (found is None) == (published is None)


def test_a_model_that_is_called_like_a_published_one_is_told_apart_from_it():
    for name in (PLACE, "ViT-B-32 openai", "openai/clip-vit-base-patch32"):
        assert namesake({"name": name, "own_weights": True}).endswith(" openai"), name
    assert namesake({"name": "x", "own_weights": True}) == namesake(OF_HUB) == ""
    assert namesake({"name": PLACE, "own_weights": True, "weights": OPENAI_FILE}) == ""


def test_every_alias_names_its_model():
    """Each line of names.csv, and each model by open_clip's own name."""
    with open(registry.FOLDER / "names.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["kind"] for line in lines} == {"hub", "quickgelu", "weights"}
    for line in lines:
        pair = line["model"], line["pretrained"]
        if line["kind"] == "hub":
            assert canonical_name(line["alias"]) == canonical_name(f"hf-hub:{line['alias']}") == pair
        elif line["kind"] == "weights":
            assert canonical_name("a file's", "/some/where.pt", weights=line["alias"]) == pair
        else:
            assert needs_quickgelu(*pair)
    for pair in rows()[["model", "pretrained"]].drop_duplicates().itertuples(index=False):
        assert canonical_name(*pair) == tuple(pair)


def test_names_of_open_clip_and_of_their_table_agree():
    """Every name that names.csv gives is one that open_clip can load, or a place on the Hub."""
    code = (
        "import csv, open_clip\n"
        "known = {(m, t) for m, t in open_clip.list_pretrained()}\n"
        f"lines = list(csv.DictReader(open({str(registry.FOLDER / 'names.csv')!r})))\n"
        "tags = {(l['model'], l['pretrained']) for l in lines if not l['pretrained'].startswith('hf-hub:')}\n"
        "print(sorted(tags - known))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[('MobileCLIP-S0', 'datacompdr')]"  # Apple's, which open_clip has no tag for


def values(found, source, key, metric):
    row = found[(found["source"] == source) & (found["key"] == key) & (found["metric"] == metric)]
    return row["value"].to_list()


def test_openais_rows_were_run_with_quickgelu_whatever_their_name_says():
    right, wrong = rows_of_model("ViT-B-16-quickgelu", "openai"), rows_of_model("ViT-B-16", "openai")
    assert values(right, "openclip_38", "imagenet1k", "acc1") == [0.6834]
    assert set(right["remark"]) == {""}
    assert set(right["source"]) == {"openclip_38", "openclip_retrieval", "openclip_multilingual", "mteb", "lotlip"}
    # The run without it finds the same values, and is told that they are not of what it ran.
    assert values(wrong, "openclip_38", "imagenet1k", "acc1") == [0.6834]
    assert all("run model.name=ViT-B-16-quickgelu" in remark for remark in wrong["remark"])
    # Of two rows of one model in one source the one by its own name is taken.
    both = rows_of_model("ViT-B-32-quickgelu", "openai")
    assert set(both.loc[both["source"] == "openclip_38", "model"]) == {"ViT-B-32-quickgelu"}


def test_dfns_row_was_made_without_quickgelu_and_says_so():
    right, named = rows_of_model("ViT-B-16-quickgelu", "dfn2b"), rows_of_model("ViT-B-16", "dfn2b")
    assert values(right, "openclip_38", "imagenet1k", "acc1") == values(named, "openclip_38", "imagenet1k", "acc1")
    assert all("made without QuickGELU, which these weights were trained with" in text for text in right["remark"])
    assert set(named["remark"]) == {""}
    # Its L/14 was published as it should be.
    assert set(rows_of_model("ViT-L-14-quickgelu", "dfn2b")["remark"]) == {""}


def test_rows_that_exist_with_and_without_quickgelu_are_not_mixed():
    for name in ("RN50", "RN50-quickgelu"):
        found = rows_of_model(name, "yfcc15m")
        assert set(found["model"]) == {name}
        assert set(found["remark"]) == {""}
    found = rows_of_model("ViT-B-32", "metaclip_400m")
    assert set(found["model"]) == {"ViT-B-32-quickgelu"}
    assert all("made with QuickGELU, and ViT-B-32 has none" in text for text in found["remark"])


def test_the_nearest_name_comes_first():
    assert [item.model for item in published_names("ViT-B-16-quickgelu", "openai")] == [
        "ViT-B-16-quickgelu",
        "ViT-B-16",
    ]
    assert published_names("nobody", None) == []
    assert rows_of_model("nobody").empty
    (other,) = set(rows_of_model("ViT-SO400M-14-SigLIP-378", "webli")["remark"])
    assert "another image size" in other


def test_what_mieb_published():
    """Read in the files of embeddings-benchmark/results, two models and two kinds of loader."""
    of_b32, of_l14 = rows_of_model(*OPENAI), rows_of_model("ViT-L-14-quickgelu", "openai")
    nmi = {"CIFAR10": (0.7385, 0.8087), "CIFAR100": (0.5807, 0.6454), "ImageNet10": (0.9314, 0.9400)}
    nmi |= {"ImageNetDog15": (0.5412, 0.7283), "TinyImageNet": (0.6034, 0.6982)}
    for name, expected in nmi.items():
        found = [values(of, "mteb", f"mteb/{name}Clustering", "nmi")[0] for of in (of_b32, of_l14)]
        assert found == pytest.approx(expected, abs=5e-5)
    assert values(of_b32, "mteb", "mteb/CUB200I2IRetrieval", "hit_rate_at_1") == [0.52054]
    assert values(of_b32, "mteb", "mteb/NIGHTSI2IRetrieval", "ndcg_at_10") == [0.23051]
    assert values(of_b32, "mteb", "mteb/STS12VisualSTS", "cosine_spearman") == pytest.approx([0.5381], abs=5e-5)
    sts = rows_of_task("mteb/STS12VisualSTS", "cosine_spearman")
    assert len(sts) == 20
    assert dict(sts.groupby("recipe").size()) == {"autocast": 10, "fp32": 10}


def test_the_rows_of_a_task():
    found = rows_of_task("imagenet1k", "acc1")
    assert set(found["source"]) == {"openclip_38", "mobileclip", "pe", "siglip2", "metaclip"}
    assert len(found[found["source"] == "openclip_38"]) == 121
    assert rows_of_task("no/such/set").empty


def test_a_models_rows_are_read_in_a_moment_and_without_torch():
    rows_of_model("ViT-B-32", "openai")  # pyarrow is loaded
    started = time.process_time()  # other processes of the machine do not count
    for _ in range(5):
        rows_of_model("ViT-L-14", "laion2b_s32b_b82k")
    assert (time.process_time() - started) / 5 < 0.3
    code = (
        "import sys; from clipeval.results.published import rows_of_model\n"
        "assert len(rows_of_model('ViT-B-32', 'openai')) > 300\n"
        "print([name for name in ('torch', 'open_clip') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
    )


def test_what_was_published_is_found_by_the_tasks() -> None:
    """A key of the registry is a task's, in one of its languages or not, or of what no task reads: averages, LLaVA-15k."""
    from clipeval.configs import catalog

    tasks = [catalog.content("task", task) for task in catalog.group_options("task")]
    keys = {task["key"] for task in tasks}
    keys |= {f"{task['key']}/{language}" for task in tasks for language in task["data"].get("languages") or ()}
    averages = {
        "datacomp/avg",
        "retrieval/avg",
        "crossmodal3600/avg",
        "multilingual_mscoco_captions/avg",
        "multilingual/avg",
    }
    assert set(rows()["key"]) - keys == {*averages, "longclip/sharegpt4v-llava15k"}
