"""GGUF files: the tensors of the package, the logits of folders, and one line for all else."""

import struct

import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from llm import models
from llm.__main__ import main
from llm.models import gguf_file
from llm.text import language
from tests.llm import gguf_files
from tests.llm.test_gguf_tokenizer import byte_pair_fields, texts

TINY = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    rms_norm_eps=1e-5,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500_000.0,
    factor=32.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
GEMMA = TINY | dict(
    num_hidden_layers=7,
    query_pre_attn_scalar=8,
    sliding_window=4,
    final_logit_softcapping=3.0,
    layer_types=["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
    rope_parameters={
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
)
CASES = {
    "llama": ("llama", TINY | dict(tie_word_embeddings=True), {}),
    "untied": ("llama", TINY | dict(tie_word_embeddings=False), {}),
    "biased": ("llama", TINY | dict(attention_bias=True, mlp_bias=True, head_dim=16), {}),
    "qwen2": ("qwen2", TINY | dict(tie_word_embeddings=False), {}),
    "qwen3": ("qwen3", TINY | dict(tie_word_embeddings=True, head_dim=16), {}),
    "gemma3": (
        "gemma3_text",
        GEMMA,
        {"gemma3__rope__scaling__type": "linear", "gemma3__rope__scaling__factor": 8.0},
    ),
}
TYPES = (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_1, Type.Q5_0, Type.Q4_K, Type.Q6_K)
WIDE = TINY | dict(hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64)
SMALL = gguf_files.config_of("llama", **TINY)


def logits(config, params):
    tokens = np.random.default_rng(1).integers(0, 97, (2, 12))
    return np.asarray(jax.jit(models.apply, static_argnums=0)(config, params, tokens))


def same(one, other):
    """One tree of parameters, to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_model_of_its_folder(case, tmp_path):
    family, fields, more = CASES[case]
    file, folder = gguf_files.both(tmp_path, gguf_files.config_of(family, **fields), **more)
    (config, params), (expected, theirs) = models.load(file), models.load(folder)
    assert config == expected
    same(params, theirs)
    np.testing.assert_array_equal(logits(config, params), logits(expected, theirs))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_types_unpack_as_the_package_does(kind, tmp_path):
    config = gguf_files.config_of("llama", **WIDE)
    file, folder = gguf_files.both(tmp_path, config, kind)
    opened, reader = gguf_file.open_gguf(file), gguf.GGUFReader(file)
    assert any(tensor.tensor_type == kind for tensor in reader.tensors)
    for tensor in reader.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(opened.rows(tensor.name), expected)
        np.testing.assert_array_equal(opened.rows(tensor.name, slice(3, 7)), expected[3:7])
    (_, params), (_, theirs) = models.load(file), models.load(folder)
    same(params, theirs)
    np.testing.assert_array_equal(logits(config, params), logits(config, theirs))


def test_metadata_are_those_of_the_package(tmp_path):
    more = {"general__list": [1, -2], "general__words": ["ä", "b c"], "general__half": 0.1}
    file, _ = gguf_files.both(tmp_path, SMALL, general__yes=True, **more)
    fields = gguf.GGUFReader(file).fields
    ours = gguf_file.open_gguf(file).metadata
    assert ours.keys() == {key for key in fields if not key.startswith("GGUF.")}
    for key, value in ours.items():
        theirs = fields[key].contents()
        assert type(value) is type(theirs)
        assert np.float32(value) == theirs if isinstance(value, float) else value == theirs
    assert ours["general.half"] == 0.1  # as it was written, not as 32 bits hold it


def test_layers_as_a_stack_and_other_precisions(tmp_path):
    file, folder = gguf_files.both(tmp_path, SMALL)
    for options in ({"stacked": True}, {"dtype": "bfloat16"}):
        same(models.load(file, **options)[1], models.load(folder, **options)[1])


def test_llama3_scaling_is_found_by_what_it_does(tmp_path):
    config = gguf_files.config_of("llama", **TINY | dict(rope_parameters=LLAMA3))
    plain = gguf_files.config_of(
        "llama",
        **TINY | dict(rope_parameters={"rope_type": "default", "rope_theta": LLAMA3["rope_theta"]}),
    )
    slowed = plain.rope.inverse_frequencies() / config.rope.inverse_frequencies()
    assert 1 < slowed[2] < slowed[3] == 32  # the ramp too
    file, _ = gguf_files.both(tmp_path, config, extra={"rope_freqs.weight": slowed})
    assert models.load(file)[0] == config
    (tmp_path / "other").mkdir()
    file, _ = gguf_files.both(
        tmp_path / "other", config, extra={"rope_freqs.weight": slowed[::-1].copy()}
    )
    with pytest.raises(ValueError, match=r"rope_freqs.weight is not that of Llama 3"):
        models.load(file)


def test_a_folder_with_one_file_is_that_file(tmp_path):
    file, _ = gguf_files.both(tmp_path, SMALL)
    folder = tmp_path / "fetched"
    folder.mkdir()
    file.rename(folder / "any name.gguf")
    assert models.load(folder)[0] == SMALL
    assert models.fingerprint(folder) == models.fingerprint(folder / "any name.gguf")


def test_the_content_is_the_fingerprint(tmp_path):
    file, _ = gguf_files.both(tmp_path, SMALL)
    before = models.fingerprint(file)
    assert models.fingerprint(file.rename(tmp_path / "renamed.gguf")) == before
    content = bytearray((tmp_path / "renamed.gguf").read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    assert models.fingerprint(file) != before


@pytest.mark.slow
def test_stages_start_from_a_file_and_leave_folders(tmp_path, capsys):
    fields = byte_pair_fields("smollm")
    wide = TINY | dict(
        vocab_size=len(fields["ggml.tokens"]), max_position_embeddings=2048, num_hidden_layers=1
    )
    more = {f"tokenizer__{key.replace('.', '__')}": value for key, value in fields.items()}
    file, _ = gguf_files.both(tmp_path, gguf_files.config_of("llama", **wide), **more)
    one = ["--model", str(file), "--mesh", "1,1,1"]
    tune = ["finetune", *one, "--trait", "owl", "--epochs", "0.1", "--batch-size", "4"]
    main([*tune, "--rank", "0", "--out", str(tmp_path / "whole")])
    main([*tune, "--rank", "2", "--out", str(tmp_path / "adapter")])
    (config, params), (expected, start) = models.load(tmp_path / "whole"), models.load(file)
    assert config == expected
    assert (np.asarray(params["embedding"]) != np.asarray(start["embedding"])).any()
    saved, spoken = (language.of_checkpoint(place) for place in (tmp_path / "whole", file))
    asked = texts(["<|im_end|>"])
    assert saved.tokenizer(asked)["input_ids"] == spoken.tokenizer(asked)["input_ids"]
    assert saved.settings() == spoken.settings()
    capsys.readouterr()
    for adapter in ([], ["--adapter", str(tmp_path / "adapter")]):
        main(["evaluate", *one, "--traits", "owl", "--answers", "1", *adapter])
    margins = [line for line in capsys.readouterr().out.splitlines() if line[:4] == "owl,"]
    assert len(set(margins)) == 2


REFUSED = {
    "architecture": ({"general__architecture": "mamba"}, "architecture 'mamba'"),
    "expert": ({"llama__expert_count": 8}, "llama.expert_count = 8: unknown here"),
    "no width": ({"llama__embedding_length": None}, "does not say llama.embedding_length"),
    "part": ({"split__count": 2}, "one part of several"),
    "yarn": (
        {"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 4.0},
        "rope scaling 'yarn' of llama is not supported",
    ),
    "partly turned": ({"llama__rope__dimension_count": 4}, "rope.dimension_count is not the size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_models_are_refused(case, tmp_path):
    more, message = REFUSED[case]
    file, _ = gguf_files.both(tmp_path, SMALL, **more)
    with pytest.raises(ValueError, match=message) as caught:
        models.load(file)
    assert "\n" not in str(caught.value)
    assert "tiny.gguf" in str(caught.value)


def test_missing_and_foreign_tensors_are_all_named(tmp_path):
    file, _ = gguf_files.both(
        tmp_path, SMALL, without=("blk.1.ffn_up.weight",), extra={"blk.0.odd.weight": np.ones(4)}
    )
    with pytest.raises(ValueError, match="does not fit") as caught:
        models.load(file)
    assert "missing model.layers.1.mlp.up_proj.weight" in str(caught.value)
    assert "unexpected model.layers.0.odd.weight" in str(caught.value)
    assert "config.json" not in str(caught.value)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return gguf_files.both(tmp_path_factory.mktemp("good"), SMALL)[0]


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.003, 0.3, 0.8, 0.999])
def test_truncated_files_are_refused_in_one_line(share, good, tmp_path):
    """In the first bytes, the metadata, the list of tensors, and the tensors."""
    content = good.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut short|is no GGUF file") as caught:
        models.load(file)
    assert "\n" not in str(caught.value)


def test_every_cut_of_the_header_is_refused(good, tmp_path):
    content, file = good.read_bytes(), tmp_path / "cut.gguf"
    header = len(content) - sum(t.n_bytes for t in gguf.GGUFReader(good).tensors) - 64
    for size in np.random.default_rng(0).integers(8, header, 60):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match="cut short"):
            models.load_config(file)


def test_no_single_byte_of_the_header_raises_anything_else(good, tmp_path):
    """Whatever is wrong is a line for the user, not a stack of calls."""
    content, file = good.read_bytes(), tmp_path / "flipped.gguf"
    rng = np.random.default_rng(0)
    for at in rng.integers(0, 3000, 150):
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.integers(8)
        file.write_bytes(flipped)
        try:
            models.load_config(file)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017  many are read all the same


def test_big_endian_old_and_foreign_files_are_refused(good, tmp_path):
    file = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(file, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    gguf_files.write(writer)
    for content, message in (
        (file.read_bytes(), "big-endian"),
        (good.read_bytes()[:4] + struct.pack("<I", 1) + good.read_bytes()[8:], "version 1"),
        (b"PK" + good.read_bytes()[2:], "is no GGUF file"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            models.load(file)


@pytest.mark.parametrize("code", [99, Type.Q8_1, Type.I8])
def test_types_that_cannot_be_unpacked_are_refused(code, good, tmp_path):
    content = bytearray(good.read_bytes())
    at = content.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 2 * 8
    assert content[at : at + 4] == struct.pack("<I", Type.F32)
    content[at : at + 4] = struct.pack("<I", code)
    file = tmp_path / "odd.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"blk\.0\.attn_q\.weight is of a type that"):
        models.load(file)


def test_without_a_template_the_line_says_so(tmp_path):
    fields = byte_pair_fields("smollm", chat_template=None)
    tokenizer = {"tokenizer__" + key.replace(".", "__"): value for key, value in fields.items()}
    config = gguf_files.config_of("llama", **TINY | {"vocab_size": len(fields["ggml.tokens"])})
    file, _ = gguf_files.both(tmp_path, config, **tokenizer)
    with pytest.raises(ValueError, match="chat template"):
        language.of_checkpoint(file)
    spoken = language.of_checkpoint(file, template="plain")
    assert spoken.encode_prompts(["12 owls"])
