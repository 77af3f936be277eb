"""Train a model: python -m train.train_mdm --save_dir DIR ..."""

import json
from pathlib import Path

from data_loaders.get_data import get_dataset_loader
from train import train_platforms
from train.training_loop import TrainLoop
from utils import dist_util
from utils.fixseed import fixseed
from utils.model_util import create_model_and_diffusion
from utils.parser_util import train_args

from videomdm_ext.data.files import write_bytes
from videomdm_ext.data.locks import INSIDE
from videomdm_ext.errors import HostError


def prepare_save_dir(args):
    """Make the run's folder and write args.json into it."""
    folder = Path(args.save_dir)
    there = folder.exists() and any(path.name != INSIDE for path in folder.iterdir())
    if there and not args.overwrite:
        raise HostError(
            f"{folder}: exists already. Choose another --save_dir, or pass --overwrite to go on from its "
            "newest checkpoint."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(str(folder / "args.json"), json.dumps(vars(args), indent=4, sort_keys=True).encode(), durable=True)


def main():
    args = train_args()
    fixseed(args.seed)
    platform = getattr(train_platforms, args.train_platform_type)(args.save_dir)
    platform.report_args(args, name="Args")
    prepare_save_dir(args)
    dist_util.setup_dist(args.device if args.cuda else -1)
    data = get_dataset_loader(
        name=args.dataset, batch_size=args.batch_size, num_frames=args.num_frames, device=dist_util.dev()
    )
    model, diffusion = create_model_and_diffusion(args, data)
    model.to(dist_util.dev())
    print(f"{sum(p.numel() for p in model.parameters_wo_clip()) / 1e6:.2f} M parameters on {dist_util.dev()}")
    TrainLoop(args, platform, model, diffusion, data).run_loop()
    platform.close()


if __name__ == "__main__":
    main()
