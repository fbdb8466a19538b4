"""What every family promises, against diffusers' own pipelines where there is one to ask."""

from __future__ import annotations

import hashlib
import logging

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from library.core.errors import Exit, UserError

FAMILIES = ("sd15", "sd2_v", "sdxl")
PROMPTS = ["a cat", "a dog on the moon, best quality, upper body"]


@pytest.fixture(scope="session")
def pipeline(tiny):
    pipelines = {}

    def of(family):
        if family not in pipelines:
            kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
            pipelines[family] = kind.from_pretrained(tiny(family, "folder"), local_files_only=True)
        return pipelines[family]

    return of


@pytest.mark.parametrize("family", ["sd15", "sd2_v"])
def test_prompts_are_encoded_as_in_diffusers(tiny, load, pipeline, family):
    conditioning = load(tiny(family, "folder")).encode_prompts(PROMPTS)
    expected, _ = pipeline(family).encode_prompt(PROMPTS, "cpu", 1, False)
    assert conditioning.keys() == {"hidden"}
    torch.testing.assert_close(conditioning["hidden"], expected)


@pytest.mark.parametrize("family", ["sd15", "sd2_v"])
def test_clip_skip_reads_an_earlier_layer(tiny, load, pipeline, family):
    pipe = pipeline(family)
    ids = pipe.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        states = pipe.text_encoder(ids, output_hidden_states=True).hidden_states
        body = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
        for skip in (1, 2, 3):
            found = load(tiny(family, "folder"), clip_skip=skip).encode_prompts(PROMPTS)["hidden"]
            torch.testing.assert_close(found, body.final_layer_norm(states[-skip]))


def test_sdxl_prompts_are_encoded_as_in_diffusers(tiny, load, pipeline):
    conditioning = load(tiny("sdxl", "folder")).encode_prompts(PROMPTS)
    expected, _, pooled, _ = pipeline("sdxl").encode_prompt(PROMPTS, do_classifier_free_guidance=False, device="cpu")
    torch.testing.assert_close(conditioning["hidden"], expected)
    torch.testing.assert_close(conditioning["pooled"], pooled)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_and_latents_as_in_diffusers(tiny, load, pipeline, family):
    model, vae = load(tiny(family, "folder")), pipeline(family).vae
    pixels_BCHW = torch.rand(2, 3, 32, 48) * 2 - 1
    latents = model.encode_images(pixels_BCHW)
    with torch.no_grad():
        expected = vae.encode(pixels_BCHW).latent_dist
        torch.testing.assert_close(latents.mean, expected.mean * vae.config.scaling_factor)
        torch.testing.assert_close(latents.std, expected.std * vae.config.scaling_factor)
        decoded = vae.decode(latents.mean / vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(model.decode_latents(latents.mean), decoded)
    assert model.latents.stride == 4
    assert latents.mean.shape == (2, model.latents.channels, 8, 12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unet_predicts_as_in_diffusers(tiny, load, pipeline, family):
    model, unet = load(tiny(family, "folder")), pipeline(family).unet
    noisy, t_B = torch.randn(2, 4, 8, 8), torch.tensor([0, 999])
    geometry_B6 = torch.tensor([[64.0, 48, 0, 4, 64, 48], [32.0, 32, 2, 0, 32, 32]])
    conditioning = model.encode_prompts(PROMPTS)
    added = {"text_embeds": conditioning["pooled"], "time_ids": geometry_B6} if family == "sdxl" else None
    with torch.no_grad():
        expected = unet(noisy, t_B, conditioning["hidden"], added_cond_kwargs=added).sample
        torch.testing.assert_close(model.predict(noisy, t_B, conditioning, geometry_B6), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_process_has_the_alphas_of_the_scheduler(tiny, load, family):
    theirs = DDIMScheduler.from_pretrained(tiny(family, "folder"), subfolder="scheduler").alphas_cumprod
    torch.testing.assert_close(load(tiny(family, "folder")).process.alphas_bar, theirs, rtol=1e-4, atol=1e-7)


def test_zero_terminal_snr_rescales_the_process(tiny, load):
    theirs = DDIMScheduler.from_pretrained(
        tiny("sd2_v", "folder"), subfolder="scheduler", rescale_betas_zero_snr=True
    ).alphas_cumprod
    process = load(tiny("sd2_v", "folder"), zero_terminal_snr=True).process
    torch.testing.assert_close(process.alphas_bar, theirs, rtol=1e-3, atol=1e-6)
    assert process.alphas_bar[-1] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_hosts_are_frozen_and_named_for_networks(tiny, load, family):
    hosts = load(tiny(family, "folder")).hosts(["unet", "text_encoders"])
    assert list(hosts) == (["unet", "te1", "te2"] if family == "sdxl" else ["unet", "te1"])
    assert not any(parameter.requires_grad for host in hosts.values() for parameter in host.parameters())
    assert not any(parameter.is_meta for host in hosts.values() for parameter in host.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_throughout(tiny, load, family, dtype):
    model = load(tiny(family, "folder"), dtype)
    conditioning = model.encode_prompts(PROMPTS)
    latents = model.encode_images(torch.rand(2, 3, 32, 32) * 2 - 1)
    predicted = model.predict(
        latents.mean, torch.tensor([1, 500]), conditioning, torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
    )
    assert predicted.dtype == dtype
    assert all(value.dtype == dtype for value in conditioning.values())
    assert latents.mean.dtype == torch.float32
    for value in (predicted, latents.mean, *conditioning.values()):
        assert value.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_with_checkpointing_and_less_is_kept(tiny, load, family):
    gradients, kept = [], []
    for checkpointing in (False, True):
        model = load(tiny(family, "folder"))
        if checkpointing:
            model.enable_gradient_checkpointing(selective=False, random=False)
        hosts = model.hosts(["unet", "text_encoders"])
        trained = [hosts["te1"].get_input_embeddings().weight, hosts["unet"].conv_in.weight]
        for parameter in trained:
            parameter.requires_grad_(True)
        saved = 0

        def count(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            conditioning = model.encode_tokens(model.tokenize(PROMPTS))
            noisy = torch.ones(2, 4, 8, 8)
            geometry_B6 = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
            model.predict(noisy, torch.tensor([10, 20]), conditioning, geometry_B6).square().mean().backward()
        gradients.append([parameter.grad for parameter in trained])
        kept.append(saved)
        assert not any(module.training for module in hosts["te1"].modules() if isinstance(module, torch.nn.Dropout))
    for without, with_checkpointing in zip(*gradients):
        assert without.abs().sum() > 0
        torch.testing.assert_close(without, with_checkpointing)
    assert kept[1] < kept[0]


def test_encoding_prompts_keeps_no_graph(tiny, load):
    assert not load(tiny("sd15", "folder")).encode_prompts(PROMPTS)["hidden"].requires_grad


@pytest.mark.parametrize("max_token_length", [None, 75, 150, 225])
def test_long_prompts(tiny, load, max_token_length):
    model = load(tiny("sdxl", "folder"), max_token_length=max_token_length)
    chunks = (max_token_length or 75) // 75
    tokens = model.tokenize(["x" * 200, "short"])
    assert {name: tuple(value.shape) for name, value in tokens.items()} == {
        "ids": (2, chunks, 77),
        "ids_2": (2, chunks, 77),
    }
    assert model.encode_tokens(tokens)["hidden"].shape == (2, 75 * chunks + 2, 192)
    assert model.count_tokens("x" * 200) == 200


def test_weighted_captions_scale_the_states(tiny, load):
    model = load(tiny("sdxl", "folder"), weighted_captions=True)
    plain, strong = (model.encode_prompts([prompt]) for prompt in ("a b c", "a (b:2) c"))
    ratio = (strong["hidden"] / plain["hidden"])[0].median(dim=-1).values
    assert ratio[2] == pytest.approx(2, rel=1e-4)
    assert torch.equal(strong["pooled"], plain["pooled"])


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_load_when_used_and_can_be_released(tiny, load, family, monkeypatch):
    loaded = []
    for name in ("load_unet", "load_vae", "load_text_encoder"):
        for module in ("assembly", "image_coding", "prompt_encoding"):
            target = f"library.models.{module}.{name}"
            original = getattr(__import__(f"library.models.{module}", fromlist=[name]), name, None)
            if original is not None:
                monkeypatch.setattr(
                    target, lambda *args, _load=original, _name=name: loaded.append(_name) or _load(*args)
                )
    model = load(tiny(family, "folder"))
    model.tokenize(PROMPTS)
    model.fingerprint("text_encoders")
    assert loaded == []
    first = model.encode_prompts(PROMPTS)
    model.encode_prompts(PROMPTS)
    encoders = 2 if family == "sdxl" else 1
    assert loaded == ["load_text_encoder"] * encoders
    model.release("text_encoders")
    assert torch.equal(model.encode_prompts(PROMPTS)["hidden"], first["hidden"])
    assert loaded == ["load_text_encoder"] * 2 * encoders
    model.release("vae")
    model.release("unet")


def test_lack_of_memory_is_told_as_such(tiny, load, monkeypatch):
    model = load(tiny("sd15", "folder"))
    monkeypatch.setattr(
        "diffusers.models.unets.unet_2d_condition.UNet2DConditionModel.from_config",
        lambda config: torch.empty(1 << 46, device="cpu"),
    )
    with pytest.raises(UserError, match="out of memory while a part of the model was loaded") as told:
        model.hosts(["unet"])
    assert told.value.exit_code == Exit.OUT_OF_MEMORY


def test_a_released_unet_comes_back_with_checkpointing(tiny, load):
    model = load(tiny("sd15", "folder"))
    model.enable_gradient_checkpointing(selective=False, random=False)
    before = model.hosts(["unet"])["unet"]
    model.release("unet")
    after = model.hosts(["unet"])["unet"]
    assert after is not before
    assert after.is_gradient_checkpointing


def test_fingerprints_follow_weights_and_settings(tiny, load):
    def of(part, family="sd15", dtype=torch.float32, **settings):
        return load(tiny(family, "folder"), dtype, **settings).fingerprint(part)

    assert of("vae") == of("vae", clip_skip=2)
    assert of("text_encoders") == of("text_encoders", no_half_vae=True)
    assert of("text_encoders") == of("text_encoders", quantize_base="nf4")
    different = [
        of("text_encoders"),
        of("text_encoders", clip_skip=2),
        of("text_encoders", max_token_length=150),
        of("text_encoders", weighted_captions=True),
        of("text_encoders", quantize_text_encoders="int8"),
        of("text_encoders", quantize_text_encoders="nf4"),
        of("text_encoders", dtype=torch.bfloat16),
        of("text_encoders", "sd2_v"),
    ]
    assert len(set(different)) == len(different)
    assert of("vae") != of("vae", vae=str(tiny("sdxl", "file")))
    assert of("vae", dtype=torch.bfloat16) != of("vae", dtype=torch.bfloat16, no_half_vae=True)


def test_another_vae_is_used(tiny, load, pipeline):
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    own = load(tiny("sd15", "folder")).encode_images(pixels)
    for other in (tiny("sdxl", "folder"), tiny("sdxl", "folder") / "vae", tiny("sdxl", "file")):
        latents = load(tiny("sd15", "folder"), vae=str(other)).encode_images(pixels)
        assert not torch.allclose(latents.mean, own.mean)
    with pytest.raises(UserError, match="vae: there is no file or folder"):
        load(tiny("sd15", "folder"), vae="nowhere.safetensors")


@pytest.mark.parametrize(
    ("family", "version", "v2"),
    [("sd15", "sd_v1", "False"), ("sd2_v", "sd_v2_v", "True"), ("sdxl", "sdxl_base_v1-0", "False")],
)
def test_metadata_in_the_words_of_sd_scripts(tiny, load, family, version, v2):
    metadata = load(tiny(family, "folder")).metadata()
    assert metadata == {"ss_base_model_version": version, "ss_v2": v2, "ss_sd_model_name": family}


def test_metadata_of_single_files_has_their_hashes(tiny, load):
    file = tiny("sd15", "file")
    content = file.read_bytes()
    metadata = load(file, vae=str(file)).metadata()
    full, legacy = hashlib.sha256(content).hexdigest(), hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert metadata["ss_sd_model_name"] == metadata["ss_vae_name"] == "sd15.safetensors"
    assert metadata["ss_new_sd_model_hash"] == metadata["ss_new_vae_hash"] == full
    assert metadata["ss_sd_model_hash"] == metadata["ss_vae_hash"] == legacy
    assert all(isinstance(value, str) for value in metadata.values())


def test_xformers_is_refused_plainly_where_it_cannot_work(tiny, load, monkeypatch):
    model = load(tiny("sd15", "folder"), attention="xformers")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed"):
        model.hosts(["unet"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        model.hosts(["unet"])


def test_clip_skip_is_not_ignored_silently_for_sdxl(tiny, load, caplog):
    with caplog.at_level(logging.WARNING):
        load(tiny("sdxl", "folder"), clip_skip=2)
        assert not caplog.records
        load(tiny("sdxl", "folder"), clip_skip=1)
    assert "clip_skip = 1 has no effect" in caplog.text


def test_clip_skip_warns_for_a_recognised_sd2(tiny, load, caplog):
    with caplog.at_level(logging.WARNING):
        load(tiny("sd2_v", "folder"), clip_skip=1)
        load(tiny("sd15", "folder"), clip_skip=2)
        assert not caplog.records
        load(tiny("sd2_v", "folder"), clip_skip=2)
    assert "clip_skip = 2 reads one from further inside" in caplog.text
