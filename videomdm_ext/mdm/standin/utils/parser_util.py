"""Command line of the stand-in host: MDM's option groups and names, for the options this host knows."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from videomdm_ext.data.files import read_json
from videomdm_ext.errors import HostError

RESTORED_GROUPS = ("dataset", "model", "diffusion")
ONLY_VALUES = {"arch": "trans_enc", "context_len": 0, "pred_len": 0, "multi_target_cond": False}


def boolean(text):
    """Read a flag's value: true, yes, 1 / false, no, 0."""
    if text.lower() in ("true", "yes", "1"):
        return True
    if text.lower() in ("false", "no", "0"):
        return False
    raise ArgumentTypeError(f"expected true or false, found {text!r}")


OPTIONS = {
    "base": (
        ("cuda", boolean, True, "Use a GPU when there is one."),
        ("device", int, 0, "Index of the GPU; negative means CPU."),
        ("seed", int, 10, "Seed of every random stream."),
        ("batch_size", int, 64, "Clips in a batch."),
        ("train_platform_type", ("NoPlatform",), "NoPlatform",
         "Where to report beside progress.csv, which gets a row every --log_interval steps."),
    ),
    "dataset": (
        ("dataset", ("humanml",), "humanml", "The feature format."),
        ("data_dir", str, "", "Kept for MDM's command lines; this host reads no data itself."),
    ),
    "model": (
        ("arch", ("trans_enc",), "trans_enc", "Architecture."),
        ("text_encoder_type", ("clip",), "clip", "Kind of text embedding."),
        ("layers", int, 8, "Transformer layers."),
        ("latent_dim", int, 512, "Transformer width."),
        ("ff_size", int, 1024, "Feed-forward width (MDM: always 1024)."),
        ("conv_kernel", int, 0, "Frames that each layer convolves before attention; 0: none (MDM: always 0)."),
        ("num_heads", int, 4, "Attention heads (MDM: always 4)."),
        ("dropout", float, 0.1, "Dropout of the denoiser (MDM: always 0.1)."),
        ("cond_mask_prob", float, 0.1, "How often training hides the text, for classifier-free guidance."),
        ("mask_frames", bool, False, "Hide padded frames from attention."),
        ("lambda_vel", float, 0.0, "Weight of the feature velocity loss."),
        ("unconstrained", bool, False, "Train without text."),
        ("pos_embed_max_len", int, 5000, "Longest positional table."),
        ("use_ema", bool, False, "Keep an exponential average of the weights."),
    ),
    "diffusion": (
        ("noise_schedule", ("linear", "cosine"), "cosine", "Noise schedule."),
        ("diffusion_steps", int, 1000, "Diffusion steps, T."),
        ("sigma_small", boolean, True, "Sample with the posterior variance."),
    ),
    "training": (
        ("save_dir", str, None, "Folder of this run."),
        ("overwrite", bool, False, "Allow an existing save_dir and go on from its newest checkpoint."),
        ("lr", float, 1e-4, "Learning rate."),
        ("weight_decay", float, 0.0, "AdamW weight decay."),
        ("lr_anneal_steps", int, 0, "Steps of a linear decay to zero; 0: none."),
        ("gradient_clip", float, 0.0, "Largest gradient norm; 0: no limit."),
        ("log_interval", int, 1_000, "Steps between two rows of progress.csv."),
        ("save_interval", int, 50_000, "Steps between two checkpoints."),
        ("num_steps", int, 600_000, "Training stops after exactly this step."),
        ("num_frames", int, 60, "Passed to the dataset."),
        ("resume_checkpoint", str, "", "A model*.pt to start from."),
        ("avg_model_beta", float, 0.9999, "Decay of the weight average."),
        ("adam_beta2", float, 0.999, "AdamW beta 2."),
    ),
    "sampling": (
        ("model_path", str, None, "Checkpoint to sample from; args.json lies beside it."),
        ("output_dir", str, "", "Where results.npz goes; empty: beside the checkpoint."),
        ("num_samples", int, 6, "Prompts to sample."),
        ("num_repetitions", int, 3, "Samples of each prompt."),
        ("guidance_param", float, 2.5, "Classifier-free guidance scale."),
    ),
    "generate": (
        ("motion_length", float, 6.0, "Seconds to generate."),
        ("input_text", str, "", "A file with one prompt a line."),
        ("text_prompt", str, "", "One prompt; empty: captions of the dataset."),
    ),
}  # fmt: skip
"""By group: name, type or choices, default (None: required), help."""


def add_options(parser, title):
    group = parser.add_argument_group(title)
    for name, kind, default, text in OPTIONS[title]:
        if kind is bool:
            group.add_argument(f"--{name}", action="store_true", help=text)
        elif isinstance(kind, tuple):
            group.add_argument(f"--{name}", choices=kind, default=default, help=text)
        else:
            group.add_argument(f"--{name}", type=kind, default=default, required=default is None, help=text)


def add_diffusion_options(parser):
    add_options(parser, "diffusion")


def get_cond_mode(args):
    return "no_cond" if args.unconstrained else "text"


def apply_rules(args):
    """The last word on the arguments; an activation hook wraps this function."""
    return args


def restore(args, parser):
    """Take data, model and diffusion options from the args.json beside the checkpoint, in place."""
    path = Path(args.model_path).parent / "args.json"
    if not path.is_file():
        raise HostError(f"{path}: not found. --model_path must name a checkpoint with its args.json beside it.")
    saved = read_json(path, "args")
    for name, value in ONLY_VALUES.items():
        if saved.get(name, value) != value:
            raise HostError(
                f"{path}: {name} is {saved[name]!r}; the stand-in host knows only {value!r}. Use MDM (--mdm)."
            )
    groups = [group for group in parser._action_groups if group.title in RESTORED_GROUPS]
    for name in [action.dest for group in groups for action in group._group_actions]:
        if name in saved:
            setattr(args, name, saved[name])
        else:
            print(f"{path}: no {name}; using {getattr(args, name)!r}")


def train_args() -> Namespace:
    parser = ArgumentParser()
    for title in ("base", "dataset", "model"):
        add_options(parser, title)
    add_diffusion_options(parser)
    add_options(parser, "training")
    return apply_rules(parser.parse_args())


def generate_args() -> Namespace:
    parser = ArgumentParser()
    for title in ("base", "sampling", "generate", "dataset", "model"):
        add_options(parser, title)
    add_diffusion_options(parser)
    args = parser.parse_args()
    restore(args, parser)
    if args.cond_mask_prob == 0:
        args.guidance_param = 1
    if get_cond_mode(args) == "no_cond" and (args.text_prompt or args.input_text):
        raise HostError(
            f"{args.model_path}: trained with --unconstrained, which takes no text. "
            "Leave out --text_prompt and --input_text."
        )
    return apply_rules(args)
