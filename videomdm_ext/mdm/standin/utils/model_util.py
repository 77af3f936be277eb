"""Build the model and the diffusion from the arguments; read checkpoints."""

from diffusion import gaussian_diffusion as gd
from diffusion.respace import SpacedDiffusion, space_timesteps
from model.mdm import MDM
from utils import dist_util
from utils.parser_util import get_cond_mode

from videomdm_ext.errors import HostError

HUMANML_FEATURES = 263


def create_model_and_diffusion(args, data):
    return MDM(**get_model_args(args, data)), create_gaussian_diffusion(args)


def get_model_args(args, data):
    """Constructor keywords of MDM; the dataset's `num_features` gives the channels where it has one."""
    named = ("latent_dim", "ff_size", "num_heads", "dropout", "cond_mask_prob", "arch", "dataset",
             "pos_embed_max_len", "mask_frames")  # fmt: skip
    return {
        "njoints": getattr(data.dataset, "num_features", HUMANML_FEATURES), "nfeats": 1, "num_layers": args.layers,
        "cond_mode": get_cond_mode(args), "clip_version": "ViT-B/32", **{name: getattr(args, name) for name in named},
        "conv_kernel": getattr(args, "conv_kernel", 0),  # runs of earlier versions know none
    }  # fmt: skip


def create_gaussian_diffusion(args):
    """The model predicts x_0; the variance is fixed."""
    steps = args.diffusion_steps
    return SpacedDiffusion(
        use_timesteps=space_timesteps(steps, [steps]),
        betas=gd.get_named_beta_schedule(args.noise_schedule, steps),
        model_var_type=gd.ModelVarType.FIXED_SMALL if args.sigma_small else gd.ModelVarType.FIXED_LARGE,
        lambda_vel=args.lambda_vel,
    )


def load_model_wo_clip(model, state_dict):
    """Load all but the text encoder (never saved) and the positional tables (fixed)."""
    kept = {name: value for name, value in state_dict.items() if not name.endswith("sequence_pos_encoder.pe")}
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise HostError(f"The checkpoint does not fit the model; its args.json must be its own. {error}") from error
    missing = [name for name in missing if not name.startswith("clip_model.") and "sequence_pos_encoder" not in name]
    if missing or unexpected:
        raise HostError(f"The checkpoint does not fit the model: it lacks {missing} and has in excess {unexpected}.")


def load_saved_model(model, model_path, use_avg=False):
    """Load a checkpoint of either layout; with `use_avg` its averaged weights where it has them."""
    state_dict = dist_util.load_state_dict(model_path, map_location="cpu")
    if "model" in state_dict:
        state_dict = state_dict["model_avg"] if use_avg and "model_avg" in state_dict else state_dict["model"]
    load_model_wo_clip(model, state_dict)
    return model
