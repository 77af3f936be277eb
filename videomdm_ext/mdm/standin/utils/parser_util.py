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


def add_base_options(parser):
    group = parser.add_argument_group("base")
    group.add_argument("--cuda", type=boolean, default=True, help="Use a GPU when there is one.")
    group.add_argument("--device", type=int, default=0, help="Index of the GPU; negative means CPU.")
    group.add_argument("--seed", type=int, default=10, help="Seed of every random stream.")
    group.add_argument("--batch_size", type=int, default=64, help="Clips in a batch.")
    group.add_argument(
        "--train_platform_type",
        default="NoPlatform",
        choices=["NoPlatform"],
        help="Where to report beside progress.csv, which gets a row every --log_interval steps.",
    )


def add_data_options(parser):
    group = parser.add_argument_group("dataset")
    group.add_argument("--dataset", default="humanml", choices=["humanml"], help="The feature format.")
    group.add_argument("--data_dir", default="", help="Kept for MDM's command lines; this host reads no data itself.")


def add_model_options(parser):
    group = parser.add_argument_group("model")
    group.add_argument("--arch", default="trans_enc", choices=["trans_enc"], help="Architecture.")
    group.add_argument("--text_encoder_type", default="clip", choices=["clip"], help="Kind of text embedding.")
    group.add_argument("--layers", type=int, default=8, help="Transformer layers.")
    group.add_argument("--latent_dim", type=int, default=512, help="Transformer width.")
    group.add_argument("--ff_size", type=int, default=1024, help="Feed-forward width (MDM: always 1024).")
    group.add_argument("--num_heads", type=int, default=4, help="Attention heads (MDM: always 4).")
    group.add_argument("--dropout", type=float, default=0.1, help="Dropout of the denoiser (MDM: always 0.1).")
    group.add_argument(
        "--cond_mask_prob",
        type=float,
        default=0.1,
        help="How often training hides the text, for classifier-free guidance.",
    )
    group.add_argument("--mask_frames", action="store_true", help="Hide padded frames from attention.")
    group.add_argument("--lambda_vel", type=float, default=0.0, help="Weight of the feature velocity loss.")
    group.add_argument("--unconstrained", action="store_true", help="Train without text.")
    group.add_argument("--pos_embed_max_len", type=int, default=5000, help="Longest positional table.")
    group.add_argument("--use_ema", action="store_true", help="Keep an exponential average of the weights.")


def add_diffusion_options(parser):
    group = parser.add_argument_group("diffusion")
    group.add_argument("--noise_schedule", default="cosine", choices=["linear", "cosine"], help="Noise schedule.")
    group.add_argument("--diffusion_steps", type=int, default=1000, help="Diffusion steps, T.")
    group.add_argument("--sigma_small", type=boolean, default=True, help="Sample with the posterior variance.")


def add_training_options(parser):
    group = parser.add_argument_group("training")
    group.add_argument("--save_dir", required=True, help="Folder of this run.")
    group.add_argument(
        "--overwrite", action="store_true", help="Allow an existing save_dir and go on from its newest checkpoint."
    )
    group.add_argument("--lr", type=float, default=1e-4, help="Learning rate.")
    group.add_argument("--weight_decay", type=float, default=0.0, help="AdamW weight decay.")
    group.add_argument("--lr_anneal_steps", type=int, default=0, help="Steps of a linear decay to zero; 0: none.")
    group.add_argument("--gradient_clip", type=float, default=0.0, help="Largest gradient norm; 0: no limit.")
    group.add_argument("--log_interval", type=int, default=1_000, help="Steps between two rows of progress.csv.")
    group.add_argument("--save_interval", type=int, default=50_000, help="Steps between two checkpoints.")
    group.add_argument("--num_steps", type=int, default=600_000, help="Training stops after exactly this step.")
    group.add_argument("--num_frames", type=int, default=60, help="Passed to the dataset.")
    group.add_argument("--resume_checkpoint", default="", help="A model*.pt to start from.")
    group.add_argument("--avg_model_beta", type=float, default=0.9999, help="Decay of the weight average.")
    group.add_argument("--adam_beta2", type=float, default=0.999, help="AdamW beta 2.")


def add_sampling_options(parser):
    group = parser.add_argument_group("sampling")
    group.add_argument("--model_path", required=True, help="Checkpoint to sample from; args.json lies beside it.")
    group.add_argument("--output_dir", default="", help="Where results.npz goes; empty: beside the checkpoint.")
    group.add_argument("--num_samples", type=int, default=6, help="Prompts to sample.")
    group.add_argument("--num_repetitions", type=int, default=3, help="Samples of each prompt.")
    group.add_argument("--guidance_param", type=float, default=2.5, help="Classifier-free guidance scale.")


def add_generate_options(parser):
    group = parser.add_argument_group("generate")
    group.add_argument("--motion_length", type=float, default=6.0, help="Seconds to generate.")
    group.add_argument("--input_text", default="", help="A file with one prompt a line.")
    group.add_argument("--text_prompt", default="", help="One prompt; empty: captions of the dataset.")


def get_cond_mode(args):
    return "no_cond" if args.unconstrained else "text"


def apply_rules(args):
    """The last word on the arguments; an activation hook wraps this function."""
    return args


def group_names(parser, title):
    """Destinations of the options in the parser's group of this title."""
    return [action.dest for group in parser._action_groups if group.title == title for action in group._group_actions]


def load_args_from_model(args, names):
    """Restore `names` from the args.json beside the checkpoint, in place."""
    path = Path(args.model_path).parent / "args.json"
    if not path.is_file():
        raise HostError(f"{path}: not found. --model_path must name a checkpoint with its args.json beside it.")
    saved = read_json(path, "args")
    for name, value in ONLY_VALUES.items():
        if saved.get(name, value) != value:
            raise HostError(
                f"{path}: {name} is {saved[name]!r}; the stand-in host knows only {value!r}. Use MDM (--mdm)."
            )
    for name in names:
        if name in saved:
            setattr(args, name, saved[name])
        else:
            print(f"{path}: no {name}; using {getattr(args, name)!r}")
    return args


def parse_and_load_from_model(parser) -> Namespace:
    """Parse the command line; data, model and diffusion options come from the checkpoint's args.json."""
    add_data_options(parser)
    add_model_options(parser)
    add_diffusion_options(parser)
    args = parser.parse_args()
    if args.model_path:
        load_args_from_model(args, [name for title in RESTORED_GROUPS for name in group_names(parser, title)])
    if args.cond_mask_prob == 0:
        args.guidance_param = 1
    return apply_rules(args)


def train_args() -> Namespace:
    parser = ArgumentParser()
    for add in (add_base_options, add_data_options, add_model_options, add_diffusion_options, add_training_options):
        add(parser)
    return apply_rules(parser.parse_args())


def generate_args() -> Namespace:
    parser = ArgumentParser()
    for add in (add_base_options, add_sampling_options, add_generate_options):
        add(parser)
    args = parse_and_load_from_model(parser)
    if get_cond_mode(args) == "no_cond" and (args.text_prompt or args.input_text):
        raise HostError(
            f"{args.model_path}: trained with --unconstrained, which takes no text. "
            "Leave out --text_prompt and --input_text."
        )
    return args
