"""A full-size run without a download: the rendered world, edited by a Stable Diffusion 1.5 with random weights.

    python tests/perf/large_world.py                       # 4 scenes at 512 px, 2 steps, about 20 minutes on one core
    python tests/perf/large_world.py --protocol world-1024-faces --steps 20 --device cuda

The pipeline has the layout and the size of Stable Diffusion 1.5 inpainting, stored in half precision. So memory and
time are those of the published weights. Its edits are noise. ``lama`` (the embedded checkpoint, at the image's own
size), ``copy_input`` and ``oracle`` edit the same cases. The last lines are the seconds per edit and the main scores.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SUITE = """name: large-world
limit: {limit}
protocols:
  - name: {protocol}
    options: {{cases_per_category: {limit}, reference_count: 8}}
methods:
  - copy_input
  - oracle
  - {{method: lama, preset: mini}}
  - {{method: sd_inpainting, options: {{weights: "{weights}", steps: {steps}, guidance: 1.0}}}}
metrics: [leak_psnr, leak_mse, truth_rmse, success_truth]
"""


def random_parts(in_channels: int) -> dict[str, Any]:
    """The parts of a pipeline of Stable Diffusion 1.5's layout and size, in float16 and with random weights."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.methods.conftest import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    # Without numbers at first, which a float32 would double.
    with torch.device("meta"):
        # Stable Diffusion 1.5: 860 million parameters in the UNet, 84 in the autoencoder, 85 in the text encoder, which
        # has 38 more in the embeddings of CLIP's vocabulary.
        unet: Any = UNet2DConditionModel(sample_size=64, in_channels=in_channels, cross_attention_dim=768)
        vae: Any = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return {
        "vae": with_random_weights(vae),
        "text_encoder": with_random_weights(text_encoder),
        "tokenizer": tokenizer,
        "unet": with_random_weights(unet),
        "scheduler": scheduler,
    }


def with_random_weights(module: Any) -> Any:
    """A module of torch's meta device, on the CPU in float16. Its output is noise of a moderate size."""
    import torch

    module = module.half().to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                # The spread that keeps the size of a layer's input.
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(1 if name.endswith("weight") else 0)
    return module


def random_pipeline(folder: Path) -> None:
    """Writes the inpainting pipeline unless the folder holds it."""
    from diffusers import StableDiffusionInpaintPipeline

    if (folder / "model_index.json").exists():
        return
    StableDiffusionInpaintPipeline(
        **random_parts(9),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", default="world-512-scenes")
    parser.add_argument("--limit", type=int, default=1, help="cases per category")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/large-world"), help="pipeline and run go there"
    )
    options = parser.parse_args()

    import run_bench
    from bench.store import RunStore

    weights = (options.folder / "sd15-random").resolve()
    random_pipeline(weights)
    suite = options.folder / "suite.yaml"
    suite.write_text(
        SUITE.format(
            protocol=options.protocol, limit=options.limit, steps=options.steps, weights=weights.as_posix()
        )
    )
    started = time.perf_counter()
    run = options.folder / "run"
    code = run_bench.main(
        ["run", str(suite), "--out", str(run), "--device", options.device, "--batch-size", "1"]
    )
    print(f"{time.perf_counter() - started:.0f} s in all")
    seconds: dict[str, list[float]] = {}
    for record in RunStore.open(run).edits():
        if record.seconds is not None:
            seconds.setdefault(record.key.method, []).append(record.seconds)
    for method, values in seconds.items():
        print(f"{method}: {sum(values) / len(values):.2f} s per edit, n = {len(values)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
