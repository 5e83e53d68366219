"""Pipelines of latents (diffusers): the same noise in, the original loop's pictures out, within one level."""

import json

import numpy as np
import pytest
import torch
from representative import representative

from ddpm_export import generate, open_model
from ddpm_export.errors import BadFileError, UsageError
from ddpm_export.exporting.export import export
from ddpm_export.importers.load import load_checkpoint
from ddpm_export.process.noise import noise_stream

diffusers = pytest.importorskip("diffusers")

STEPS = 5
KINDS = ["AutoencoderKL", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("VQModel", "AutoencoderTiny"))]


def random_weights(module, seed):
    """Fill in what starts at zero: a network of zeros shows no scale."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.parameters():
        if not value.any():
            value.data.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return module.eval()


def pipeline(kind, in_channels=4):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=4,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    blocks = {"block_out_channels": (8, 16), "latent_channels": 4}
    if kind == "AutoencoderTiny":
        more = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "scaling_factor": 0.5}
        blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 4}
    else:
        more = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        more |= {"norm_num_groups": 4, "scaling_factor": 0.5}
        more |= {"shift_factor": 0.25} if kind == "AutoencoderKL" else {"num_vq_embeddings": 32}
    autoencoder = getattr(diffusers, kind)(**blocks, **more)
    if kind == "VQModel":
        autoencoder.quantize.embedding.weight.data.normal_(std=3.0)  # far apart: no state lies between two of them
    scheduler = diffusers.DDIMScheduler(clip_sample=False, beta_start=0.0015, beta_end=0.0195)
    return random_weights(unet, 1), random_weights(autoencoder, 2), scheduler


def saved(folder, kind, parts):
    unet, autoencoder, scheduler = parts
    name = "vqvae" if kind == "VQModel" else "vae"
    unet.save_pretrained(folder / "unet")
    autoencoder.save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], name: ["diffusers", kind]}
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_of_latents_gives_its_own_pictures(kind, tmp_path):
    parts = unet, autoencoder, scheduler = pipeline(kind)
    path = tmp_path / "unet.onnx"
    export(load_checkpoint(saved(tmp_path / "pipeline", kind, parts), steps=[STEPS]), path)
    scheduler.set_timesteps(STEPS)
    x = torch.from_numpy(noise_stream(7, range(2), (4, 4, 4))(0))
    shift = getattr(autoencoder.config, "shift_factor", None) or 0.0
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
        pictures = autoencoder.decode(x / autoencoder.config.scaling_factor + shift).sample
        latents = autoencoder.encode(pictures.clamp(-1, 1), return_dict=False)[0]
        latents = latents.mode() if kind == "AutoencoderKL" else latents
    expected = ((pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round()
    made = generate(path, n=2, seed=7)
    assert made.shape == expected.shape
    assert expected.std() > 10
    assert np.abs(made - expected).max() <= 1
    model, spec = open_model(path)
    found = spec.units.of(model.encode(pictures.clamp(-1, 1).numpy()))
    np.testing.assert_allclose(found, latents.numpy(), atol=1e-4)


def test_a_transformer_of_latents_gives_the_pictures_of_its_pipeline(tmp_path):
    torch.manual_seed(0)
    blocks = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 4}
    sizes = {"in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 3, "norm_num_groups": 4}
    network = random_weights(diffusers.DiTTransformer2DModel(**blocks, **sizes), 1)
    _, autoencoder, scheduler = pipeline("AutoencoderTiny")
    diffusers.DiTPipeline(network, autoencoder.eval(), scheduler).save_pretrained(tmp_path / "pipeline")
    index = tmp_path / "pipeline" / "model_index.json"
    names = {"id2label": {"0": "tench, Tinca", "1": "crane", "2": "crane"}}  # as the published ones have it
    index.write_text(json.dumps({**json.loads(index.read_text()), **names}))
    path = tmp_path / "unet.onnx"
    export(load_checkpoint(tmp_path / "pipeline", steps=[STEPS]), path)
    _, spec = open_model(path)
    assert spec.label.classes == ("tench", "crane", "crane 2")
    assert spec.defaults.guidance.scale == 4.0
    scheduler.set_timesteps(STEPS)
    x, y = torch.from_numpy(noise_stream(7, range(2), (4, 4, 4))(0)), torch.tensor([2, 0])
    with torch.inference_mode():
        for t in scheduler.timesteps:
            both = network(torch.cat([x, x]), t.expand(4), torch.cat([y, torch.full_like(y, 3)])).sample[:, :4]
            c, u = both.chunk(2)
            x = scheduler.step(u + 4.0 * (c - u), t, x).prev_sample
        pictures = autoencoder.decode(x / autoencoder.config.scaling_factor).sample
    expected = ((pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round()
    made = generate(path, n=2, seed=7, label=["crane 2", "tench"])
    assert expected.std() > 10
    assert np.abs(made - expected).max() <= 1


def test_a_picture_behind_the_latents_is_an_input_as_in_super_resolution(tmp_path):
    parts = unet, autoencoder, scheduler = pipeline("VQModel", in_channels=7)
    folder, path = saved(tmp_path / "pipeline", "VQModel", parts), tmp_path / "unet.onnx"
    export(load_checkpoint(folder, steps=[STEPS]), path)
    low_res = noise_stream(3, range(2), (3, 4, 4))(1).clip(-1, 1)
    scheduler.set_timesteps(STEPS)
    x = torch.from_numpy(noise_stream(7, range(2), (4, 4, 4))(0))
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(torch.cat([x, torch.from_numpy(low_res)], 1), t).sample, t, x).prev_sample
        pictures = autoencoder.decode(x / autoencoder.config.scaling_factor).sample
    expected = ((pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round()
    made = generate(path, n=2, seed=7, inputs={"low_res": low_res})
    assert expected.std() > 10
    assert np.abs(made - expected).max() <= 1
    with pytest.raises(UsageError, match="low_res"):
        generate(path, n=2, seed=7)


@representative("attends", [True, False])
def test_a_conditioned_unet_takes_its_vectors_or_classes(attends, tmp_path):
    torch.manual_seed(0)
    name = "CrossAttn" if attends else ""
    blocks = {"down_block_types": (f"{name}DownBlock2D",), "up_block_types": (f"{name}UpBlock2D",)}
    blocks |= {"mid_block_type": f"UNetMidBlock2D{name}", "num_class_embeds": 3, "cross_attention_dim": 6}
    blocks |= {"block_out_channels": (16,), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
    unet = random_weights(diffusers.UNet2DConditionModel(sample_size=4, **blocks), 1)
    _, autoencoder, scheduler = pipeline("AutoencoderTiny")
    parts, path = (unet, autoencoder, scheduler), tmp_path / "unet.onnx"
    folder = saved(tmp_path / "pipeline", "AutoencoderTiny", parts)
    if attends:
        with pytest.raises(UsageError, match="tokens"):
            load_checkpoint(folder, steps=[STEPS])
    export(load_checkpoint(folder, steps=[STEPS], options={"tokens": 2} if attends else {}), path)
    context = noise_stream(3, range(2), (2, 6))(1) if attends else None
    scheduler.set_timesteps(STEPS)
    x, y = torch.from_numpy(noise_stream(7, range(2), (4, 4, 4))(0)), torch.tensor([2, 0])
    with torch.inference_mode():
        for t in scheduler.timesteps:
            told = torch.from_numpy(context) if attends else None
            x = scheduler.step(unet(x, t, told, class_labels=y).sample, t, x).prev_sample
        pictures = autoencoder.decode(x / autoencoder.config.scaling_factor).sample
    expected = ((pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255).round()
    inputs = {"context": context.reshape(2, 12)} if attends else {}
    made = generate(path, n=2, seed=7, label=["2", "0"], inputs=inputs)
    assert expected.std() > 10
    assert np.abs(made - expected).max() <= 1


def test_an_autoencoder_of_another_class_is_refused_by_its_name(tmp_path):
    folder = saved(tmp_path / "pipeline", "AutoencoderKL", pipeline("AutoencoderKL"))
    config = json.loads((folder / "vae" / "config.json").read_text())
    for change, message in (({"_class_name": "OtherKL"}, "OtherKL"), ({"latent_channels": 3}, "latents")):
        (folder / "vae" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(BadFileError, match=message):
            load_checkpoint(folder)
