"""The frozen models behind the measures: what is asked of the libraries that read them, and what comes out of them."""

import contextlib
import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import logging

from perdure.errors import ModelError
from perdure.score import csd_checkpoint, encoders, preprocess
from perdure.score.measure import Measure, mean_cosine_among, mean_paired_cosine, mean_pairwise_cosine
from perdure.score.measures import clip_i, clip_t, clip_t_class, csd, dino, mmd
from perdure.score.sources import Located

torch.set_num_threads(1)
VISION = {"hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8,
          "patch_size": 4}  # fmt: skip
EIGHT = preprocess.Preprocess((8, 8), (8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
PICTURES = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (9, 11, 3), dtype=np.uint8)) for k in range(3)]


def pixels():
    return torch.stack([torch.from_numpy(EIGHT(image)) for image in PICTURES])


@pytest.fixture
def found(tmp_path):
    """A folder of the files that a model needs, of no content."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    return Located(tmp_path, "owner/name", "abc")


@pytest.fixture(autouse=True)
def forgotten():
    """No model is known from an earlier test."""
    encoders.release()
    yield
    encoders.release()


class Tiny:
    """A class of models, as far as it is asked here."""

    def __init__(self, missing=(), wrong=None):
        self.__name__, self.missing, self.wrong, self.asked = "Tiny", missing, wrong, []

    def from_pretrained(self, path, **given):
        self.asked.append((path, given))
        self.loud = logging.get_verbosity(), logging.is_progress_bar_enabled()
        if self.wrong:
            raise self.wrong
        return self, {"missing_keys": set(self.missing)}

    def eval(self):
        self.asked.append("eval")
        return self

    def requires_grad_(self, on=True):
        self.asked.append(on)
        return self

    def to(self, device):
        self.asked.append(device)
        return self


def test_a_model_is_read_from_its_folder_alone_and_frozen(found):
    wanted = {"local_files_only": True, "dtype": torch.float32, "output_loading_info": True, "pooling": False}
    for file, safe in (("model.safetensors", True), ("pytorch_model.bin", False)):
        (found.path / file).touch()
        kind = Tiny()
        assert encoders.load_model(kind, found, "cuda:3", pooling=False) is kind
        assert kind.asked == [(found.path, {**wanted, "use_safetensors": safe}), "eval", False, "cuda:3"]
        (found.path / "model.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Tiny(["b", "a.c", "d"]), "owner/name: lacks 3 weights of a Tiny, such as a.c."),
        (
            Tiny(wrong=RuntimeError("shapes do\nnot fit.")),
            "owner/name: is not a Tiny that can be loaded (shapes do not fit).",
        ),
    ],
)
def test_a_model_that_is_none_is_told_by_its_name(found, kind, sentence):
    with pytest.raises(ModelError) as told:
        encoders.load_model(kind, found, "cpu")
    assert str(told.value) == sentence


@pytest.mark.parametrize("bar", [True, False])
@pytest.mark.parametrize("wrong", [None, ValueError("x")])
def test_transformers_says_nothing_meanwhile_and_as_much_as_before_afterwards(found, bar, wrong):
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        (logging.enable_progress_bar if bar else logging.disable_progress_bar)()
        kind = Tiny(wrong=wrong)
        with pytest.raises(ModelError) if wrong else contextlib.nullcontext():
            encoders.load_model(kind, found, "cpu")
        assert kind.loud == (logging.ERROR, False)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, bar)
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()


def test_what_a_folder_lacks_is_named(found):
    (found.path / "pytorch_model.bin").touch()
    assert encoders.weights_file(found) == found.path / "model.safetensors"
    (found.path / "model.safetensors").unlink()
    assert encoders.weights_file(found) == found.path / "pytorch_model.bin"

    def told(located):
        with pytest.raises(ModelError) as refused:
            encoders.weights_file(located)
        return str(refused.value)

    file = Located(found.path / "config.json", "here")
    assert told(file) == "here: is a file; a folder with config.json and model.safetensors is needed."
    (found.path / "pytorch_model.bin").unlink()
    assert told(found) == f"owner/name: model.safetensors missing in {found.path}."
    (found.path / "config.json").unlink()
    assert told(found) == f"owner/name: config.json and model.safetensors missing in {found.path}."
    (found.path / "config.json").mkdir()
    (found.path / "model.safetensors").touch()
    assert told(found) == f"owner/name: config.json missing in {found.path}."


def test_words_are_those_that_the_model_has_rows_for(found, monkeypatch):
    asked, vocab = [], {"a": 0, "z": 7, "c": 3}
    tokenizer = SimpleNamespace(get_vocab=lambda: vocab)

    def read(path, **given):
        asked.append((path, given))
        if vocab is None:
            raise ValueError("torn")
        return tokenizer

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", read)
    with pytest.raises(ModelError) as told:
        encoders._tokenizer(found, 8)
    wanted = f"owner/name: its tokenizer (tokenizer.json, or vocab.json) missing in {found.path}."
    assert str(told.value) == wanted and not asked
    for name in ("vocab.json", "tokenizer.json"):
        (found.path / name).touch()
        assert encoders._tokenizer(found, 8) is tokenizer
        assert asked.pop() == (found.path, {"local_files_only": True})
        if name == "vocab.json":
            (found.path / name).unlink()
    with pytest.raises(ModelError) as told:
        encoders._tokenizer(found, 7)
    assert str(told.value) == "owner/name: its tokenizer has a word 7, and its text model has 7 words."
    vocab = {}
    assert encoders._tokenizer(found, 1) is tokenizer
    vocab = None
    with pytest.raises(ModelError) as told:
        encoders._tokenizer(found, 8)
    assert str(told.value) == "owner/name: its tokenizer cannot be read (torn)."


def test_a_model_of_the_protocols_size_is_shown_what_the_protocol_says_and_others_what_their_folder_says(found):
    file = found.path / "preprocessor_config.json"
    assert encoders._choose(EIGHT, found, 8) is EIGHT
    with pytest.raises(ModelError) as told:
        encoders._choose(EIGHT, found, 6)
    assert str(told.value) == "owner/name: preprocessor_config.json missing; needed for a model of 6 pixels."
    six = {"size": {"shortest_edge": 9}, "crop_size": 6}
    plain = {"size": {"height": 6, "width": 6}, "do_center_crop": False}
    for config in (six, plain, {**six, "do_resize": False}, {**plain, "do_resize": False}):
        file.write_text(json.dumps(config))
        assert encoders._choose(EIGHT, found, 6) == preprocess.from_config(config)
        assert encoders._choose(EIGHT, found, 8) is EIGHT
    for config in ({**six, "crop_size": 5}, {**plain, "size": {"height": 6, "width": 7}}, {"size": 6}):
        file.write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", **config}))
        with pytest.raises(ModelError) as told:
            encoders._choose(EIGHT, found, 6)
        assert str(told.value) == f"{file}: gives other than the 6x6 pixels that the model reads."
    file.write_text("{")
    with pytest.raises(ModelError, match=rf"^{file}: cannot be understood \(Expecting .*\)\.$"):
        encoders._choose(EIGHT, found, 6)


def summed(scale=1.0):
    """(n, 3, h, w) -> two numbers a picture, in float64: the sum of red and of green."""
    weight = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64))
    return lambda shown: weight * shown.double().sum(dim=(2, 3))[:, :2]


def test_pictures_are_embedded_in_batches_and_the_rows_are_of_length_one(found, monkeypatch):
    monkeypatch.setattr(encoders, "BATCH", 2)
    shown, seen = [], []

    def embed(batch):
        shown.append(len(batch))
        return summed()(batch)

    class Watched:
        words = "as they are"

        def __call__(self, image):
            seen.append((image.mode, image.size))
            return EIGHT(image)

    encoder = encoders._encoder(embed, found, "cpu", Watched())
    assert seen == [("RGB", (64, 64))] and shown == [1]  # tried once
    raw, rows = encoder.raw_images(PICTURES), encoder.images(PICTURES)
    assert shown == [1, 2, 1, 2, 1]
    expected = np.array([[EIGHT(image)[channel].sum() for channel in (0, 1)] for image in PICTURES])
    np.testing.assert_allclose(raw.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(rows.numpy(), expected / np.hypot(*expected.T)[:, None], rtol=1e-5)
    assert raw.dtype == rows.dtype == torch.float32 and not raw.requires_grad and encoder.prompts is None
    assert encoder.spec == {
        "model": "owner/name", "revision": "abc", "preprocessing": "as they are",
        "weights_sha256": hashlib.sha256(b"model.safetensors").hexdigest(),
    }  # fmt: skip
    original = Located(found.path, "x", None, "of the original")
    prompts = []
    read = lambda texts: prompts.append(texts) or torch.ones(1, 1)  # noqa: E731
    encoder = encoders._encoder(embed, original, "cpu", EIGHT, read)
    assert encoder.spec["weights_sha256"] == "of the original" and encoder.prompts is read and prompts == [["a"]]


def test_a_model_whose_features_are_none_is_told(found):
    damaged = "owner/name: is damaged, its "
    for embed, read, sentence in (
        (summed(np.nan), None, "features are not finite."),
        (summed(), lambda texts: torch.tensor([[1.0, np.inf]]), "features are not finite."),
        (lambda shown: shown[:, :, 99], None, "model cannot be run (index 99 is out of bounds for dimension 2 with"),
        (summed(), lambda texts: {}[texts[0]], "model cannot be run ('a')."),
    ):
        with pytest.raises(ModelError) as told:
            encoders._encoder(embed, found, "cpu", EIGHT, read)
        assert str(told.value).startswith(damaged + sentence)


@pytest.fixture
def given(found, monkeypatch):
    """A model that is there already, whatever is asked for: set `model`; `asked` for which."""
    box = SimpleNamespace(model=None, asked=[])
    monkeypatch.setattr(encoders, "locate", lambda *wanted: box.asked.append(wanted) or found)
    monkeypatch.setattr(encoders, "load_model", lambda *wanted, **how: box.asked.append((*wanted, how)) or box.model)
    return box


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def test_a_vision_models_features_are_its_class_token(given, found):
    torch.manual_seed(0)
    given.model = transformers.ViTModel(transformers.ViTConfig(**VISION)).eval()
    encoder = encoders.load_vit("here", "cpu", EIGHT)
    located = ("here", encoders.WEIGHTS, encoders.EXTRAS)
    assert given.asked == [located, (transformers.ViTModel, found, "cpu", {"add_pooling_layer": False})]
    with torch.no_grad():
        expected = given.model(pixels()).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder.raw_images(PICTURES), expected)
    torch.testing.assert_close(encoder.images(PICTURES), unit(expected))
    assert encoder.spec["preprocessing"] == EIGHT.words and encoder.prompts is None
    assert encoders.load_vit("here", "cpu", EIGHT) is encoder and len(given.asked) == 2
    with pytest.raises(ModelError, match=r"owner/name: preprocessor_config.json missing"):
        encoders.load_vit("here", "cpu", preprocess.DINO_224)
    encoders.release()
    assert encoders.load_vit("here", "cpu", EIGHT) is not encoder


def test_a_projecting_vision_models_features_are_its_projection(given, found):
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**VISION, projection_dim=5)
    given.model = transformers.CLIPVisionModelWithProjection(config).eval()
    prepared = []
    encoder = encoders.load_clip_vision(
        "here", "cpu", EIGHT, prepare := lambda source: prepared.append(source) or found
    )
    assert prepared == ["here"]
    assert given.asked == [(transformers.CLIPVisionModelWithProjection, found, "cpu", {})]
    with torch.no_grad():
        expected = given.model(pixels()).image_embeds
    torch.testing.assert_close(encoder.raw_images(PICTURES), expected)
    assert encoder.spec["preprocessing"] == EIGHT.words and encoder.spec["model"] == "owner/name"
    encoders.release()
    assert encoders.load_clip_vision("here", "cpu", EIGHT, prepare) is not encoder
    with pytest.raises(ModelError, match=r"owner/name: preprocessor_config.json missing"):
        encoders.load_clip_vision("here", "cpu", preprocess.DINO_224, prepare)


def test_a_clip_models_features_are_its_projections_of_pictures_and_texts(given, found, monkeypatch):
    torch.manual_seed(0)
    text = {"vocab_size": 9, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "eos_token_id": 8,
            "num_attention_heads": 1, "max_position_embeddings": 5}  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=3)
    given.model = transformers.CLIPModel(config).eval()
    spoken = []

    def tokens(texts, **how):
        spoken.append((texts, how))
        rows = torch.tensor([[1, len(text), 8] for text in texts])
        mask = torch.tensor([[1, text != "hidden", 1] for text in texts])
        return {"input_ids": rows, "attention_mask": mask}

    tokenizers = []
    monkeypatch.setattr(encoders, "_tokenizer", lambda *wanted: tokenizers.append(wanted) or tokens)
    monkeypatch.setattr(encoders, "BATCH", 2)
    encoder = encoders.load_clip("here", "cpu", EIGHT)
    located = ("here", encoders.WEIGHTS, encoders.EXTRAS)
    assert given.asked == [located, (transformers.CLIPModel, found, "cpu", {})] and tokenizers == [(found, 9)]
    with torch.no_grad():
        shown = given.model.get_image_features(pixel_values=pixels()).pooler_output
        read = [given.model.get_text_features(**tokens([text])).pooler_output for text in ("a", "hidden", "three")]
    torch.testing.assert_close(encoder.raw_images(PICTURES), shown)
    torch.testing.assert_close(encoder.images(PICTURES), unit(shown))
    spoken.clear()
    features = encoder.prompts(("a", "hidden", "three"))
    torch.testing.assert_close(features, unit(torch.cat(read)))
    assert features.dtype == torch.float32 and not features.requires_grad
    how = {"padding": True, "truncation": True, "max_length": 5, "return_tensors": "pt"}
    assert spoken == [(["a", "hidden"], how), (["three"], how)]
    encoders.release()
    assert encoders.load_clip("here", "cpu", EIGHT) is not encoder
    with pytest.raises(ModelError, match=r"owner/name: preprocessor_config.json missing"):
        encoders.load_clip("here", "cpu", preprocess.CLIP_224)


class Processor:
    """A detector's processor, as far as it is asked here: four boxes, of which one lies over another."""

    def __init__(self):
        self.asked, self.wrong = [], None

    def from_pretrained(self, path, **given):
        self.asked.append((path, given))
        if self.wrong:
            raise self.wrong
        return self

    def __call__(self, **given):
        self.asked.append(given)
        return self

    def to(self, device):
        self.asked.append(device)
        return {"shown": "pixels"}

    def post_process_grounded_object_detection(self, seen, **given):
        self.asked.append((seen, given))
        boxes = [[1.9, 2.2, 5.6, 6.4], [-2.0, 0.0, 4.0, 99.0], [0.0, 0.0, 4.0, 10.0], [3.0, 3.0, 3.2, 9.0]]
        return [{"scores": torch.tensor([0.5, 0.6, 0.9, 0.95]), "boxes": torch.tensor(boxes)}]


def test_a_detector_is_asked_for_each_noun_once_and_its_boxes_are_sorted(given, found, monkeypatch):
    processor = Processor()
    monkeypatch.setattr(transformers.Owlv2Processor, "from_pretrained", processor.from_pretrained)
    grad = []
    given.model = lambda **shown: grad.append(torch.is_grad_enabled()) or shown
    detector = encoders.load_owl("here", "cpu")
    located = ("here", encoders.WEIGHTS, encoders.EXTRAS)
    assert given.asked == [located, (transformers.Owlv2ForObjectDetection, found, "cpu", {})]
    read, tried, *_ = processor.asked
    assert read == (found.path, {"local_files_only": True})
    assert tried["images"].size == (64, 64) and tried["images"].mode == "RGB"
    processor.asked.clear()
    image = Image.new("RGB", (9, 7))
    assert detector([image], ["dog", "cat", "dog"]) == [[(0, 0, 4, 7), (1, 2, 6, 6)]]
    assert processor.asked == [
        {"text": [["a photo of a dog", "a photo of a cat"]], "images": image, "return_tensors": "pt"}, "cpu",
        ({"shown": "pixels"}, {"threshold": 0.4, "target_sizes": [(7, 9)]}),
    ]  # fmt: skip
    assert grad == [False, False] and detector([], ["dog"]) == [] and encoders.load_owl("here", "cpu") is detector
    encoders.release()
    processor.wrong = ValueError("torn")
    with pytest.raises(ModelError) as told:
        encoders.load_owl("here", "cpu")
    assert str(told.value) == "owner/name: its tokenizer or preprocessor cannot be read (torn)."
    processor.wrong, given.model = None, lambda **shown: shown["lost"]
    with pytest.raises(ModelError) as told:
        encoders.load_owl("here", "cpu")
    assert str(told.value) == "owner/name: is damaged, its model cannot be run ('lost')."


PAIRS = "all generated x reference pairs"
WORDS = {"features": "projected image and text features",
         "averaging": "each picture with its own prompt, plain cosine (not 2.5 x)"}  # fmt: skip
COSINE = {"direction": "higher", "range": (-1.0, 1.0), "encode_images": "images"}
TO_PICTURES = {**COSINE, "against": "references", "compare": mean_pairwise_cosine, "among": mean_cosine_among}
TO_WORDS = {**COSINE, "against": "prompts", "compare": mean_paired_cosine, "encode_prompts": "prompts"}
CLIP = ("load_clip", "openai/clip-vit-base-patch32", preprocess.CLIP_224)
TOLD = {
    clip_i: (*CLIP, {"features": "projected image features", "averaging": PAIRS}, TO_PICTURES),
    clip_t: (*CLIP, WORDS, TO_WORDS),
    clip_t_class: (
        *CLIP, {**WORDS, "prompts": "without the concept's token (Custom Diffusion)"},
        {**TO_WORDS, "without_token": True},
    ),
    csd: (
        "load_clip_vision", "tomg-group-umd/CSD-ViT-L", preprocess.CSD_224, csd_checkpoint.prepare,
        {"features": "style vector", "averaging": PAIRS}, TO_PICTURES,
    ),
    dino: (
        "load_vit", "facebook/dino-vits16", preprocess.DINO_224,
        {"features": "class token of the last hidden state", "averaging": PAIRS}, TO_PICTURES,
    ),
    mmd: (
        *CLIP, {"features": "projected image features, not normalised",
                "averaging": "unbiased squared MMD, kernel (x.y/d + 1)^3, x 1000"},
        {"direction": "lower", "range": (-np.inf, np.inf), "encode_images": "raw", "against": "references",
         "compare": mmd.mmd},
    ),
}  # fmt: skip


@pytest.mark.parametrize("module", TOLD, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_measure_asks_for_its_own_model_and_says_what_it_is(module, monkeypatch):
    """Two runs are compared only where what their measures say of themselves is the same, to the letter."""
    reader, model, *protocol, words, wanted = TOLD[module]
    asked = []
    monkeypatch.setattr(encoders, reader, lambda *given: asked.append(given) or encoders.Encoder(
        "images", "raw", "prompts", {"model": "read"}))  # fmt: skip
    made = module.load()
    module.load("a/folder", "cuda:1")
    assert asked == [(model, "cpu", *protocol), ("a/folder", "cuda:1", *protocol)]
    expected = Measure(name=module.__name__.rpartition(".")[2], spec={"model": "read", **words}, **wanted)
    assert {**vars(made), "shift": None} == vars(expected)
    assert (made.shift is None) == (module is not mmd)


def test_a_distance_of_two_sets_by_hand():
    """In float64; as drift, no picture is compared with that of its own noise."""
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    # (x.y / 2 + 1)^3: of x 1; of y 1, 1, 1; between 8, 1, 1 and 1, 1, 8
    assert mmd.mmd(x, y) == pytest.approx(1000 * (1 + 1 - 2 * 20 / 6), rel=1e-12)
    assert mmd.mmd(x, y, paired=True) == pytest.approx(1000 * (1 + 1 - 2 * (20 - 8 - 1) / 4), rel=1e-12)
    assert mmd.mmd(y, x, paired=True) == mmd.mmd(x, y, paired=True)
    close = torch.tensor([[1.0, 2.0**-12], [1.0, -(2.0**-12)]])  # their product is 1 in float32
    assert mmd.mmd(close, torch.zeros(2, 2)) == pytest.approx(1000 * ((1.5 - 2.0**-25) ** 3 - 1), rel=1e-12)
    for own, other, told in ((x[:1], y, "1 and 3"), (x, y[:1], "2 and 1"), (x[:0], y[:0], "0 and 0")):
        with pytest.raises(ValueError) as refused:
            mmd.mmd(own, other)
        assert str(refused.value) == f"mmd needs two pictures or more on each side, not {told}"


def test_drift_of_what_has_not_moved_is_nothing(monkeypatch):
    monkeypatch.setattr(encoders, "load_clip", lambda *given: encoders.Encoder(None, None, None, {}))
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    made = mmd.load()
    assert made.shift(x, x) == pytest.approx(0, abs=1e-9) and made.compare(x, x) < -1000
