"""Trains two small pipelines on the 8x8 digits with diffusers alone, as a stranger would.

    python notebooks/stranger.py v       # v-prediction on a table that ends in pure noise
    python notebooks/stranger.py eps     # eps-prediction on DDPM's own table, which does not

Each takes about 12 minutes on one core, and is saved by save_pretrained, in half precision, to
notebooks/checkpoints/stranger-v or -eps. Lesson 15 reads them, and knows nothing else of them.
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits
from torch.nn.functional import mse_loss
from tqdm import tqdm

TABLES = {
    "v": dict(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True),
    "eps": dict(prediction_type="epsilon", beta_schedule="linear"),
}


def train(table: dict, updates: int, seed: int) -> tuple[UNet2DModel, DDPMScheduler]:
    """diffusers' example of unconditional training: add_noise, the target of the kind, mean squared error."""
    torch.manual_seed(seed)
    x = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(20, 40),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(**table)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, updates)
    ema = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    for _ in tqdm(range(updates)):
        clean = x[torch.randint(len(x), (128,))]
        noise, index = torch.randn_like(clean), torch.randint(len(scheduler), (128,))
        noisy = scheduler.add_noise(clean, noise, index)
        said = unet(noisy, index).sample
        v = table["prediction_type"] == "v_prediction"
        loss = mse_loss(said, scheduler.get_velocity(clean, noise, index) if v else noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay.step()
        ema.step(unet.parameters())
    ema.copy_to(unet.parameters())
    return unet, scheduler


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=TABLES)
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoints")
    options = parser.parse_args()
    unet, scheduler = train(TABLES[options.kind], options.updates, options.seed)
    DDIMPipeline(unet.half(), DDIMScheduler.from_config(scheduler.config)).save_pretrained(
        options.out / f"stranger-{options.kind}"
    )
