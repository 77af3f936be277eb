"""MDM's training loop: whole checkpoints, with --paired exact steps and own random streams; its log as progress.csv."""

import argparse
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from videomdm_ext.data.files import write_bytes
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import distributed, pairing, resume
from videomdm_ext.mdm.speed import exact

Host: Any = object
"""Stands for MDM's TrainLoop, which follows the classes below in the order of look-up."""


def replace(module: ModuleType) -> None:
    """Put our subclass in the place of the TrainLoop of train.training_loop. Repeating it is harmless."""
    own: Any = module.TrainLoop
    if issubclass(own, Whole):
        return
    whole = type(own.__name__, (Whole, own), {"host": module, "__module__": own.__module__})
    whole.paired = type("PairedTrainLoop", (Paired, whole), {"__module__": own.__module__})  # type: ignore[attr-defined]
    module.TrainLoop = whole  # type: ignore[attr-defined]
    if goals := vars(module).get("sample_goal"):
        vars(module)["sample_goal"] = distributed.parts_of(goals)
    if log := vars(module).get("log_loss_dict"):
        gathered, terms = distributed.gathered, distributed.gathered_terms
        vars(module)["log_loss_dict"] = lambda diffusion, t, losses, **named: log(
            diffusion, gathered(t), terms(losses), **named
        )


class Whole(Host):
    """MDM's loop with the same results, which stops where it diverges. With --paired it is a `Paired`.

    A checkpoint appears whole or not at all.
    """

    host: ModuleType
    paired: type
    data: Any
    save_dir: Any
    loss: Tensor

    def __new__(cls, args: argparse.Namespace, *rest: Any, **named: Any) -> "Whole":
        wanted = getattr(args, "paired", False) and not issubclass(cls, Paired)
        return object.__new__(cls.paired if wanted else cls)

    def __init__(
        self, args: argparse.Namespace, train_platform: Any, model: Any, diffusion: Any, data: Any, *rest: Any
    ) -> None:
        if len(data) == 0:
            raise HostError(
                f"--batch_size {args.batch_size}: expected as many clips or more, found {len(data.dataset)}. Lower it."
            )
        resume.sweep(args.save_dir)
        self.guard = resume.Guard(args, model)
        super().__init__(args, train_platform, model, diffusion, distributed.shared(data, args.seed), *rest)
        distributed.share(self, sparse=getattr(args, "multi_encoder_type", "") == "multi" and args.multi_target_cond)
        pairing.spread(args, self.number_of_step())
        self._keep_loss(diffusion)
        if self.device.type == "cuda" and not getattr(args, "multi_target_cond", False):
            self.data = exact.OnDevice(self.data, self.device)

    def _load_and_sync_parameters(self) -> None:
        """Before February 2025 MDM asks a checkpoint for the text encoder's weights, which none holds."""
        handle = self.model.register_load_state_dict_post_hook(forgive_text_encoder)
        try:
            super()._load_and_sync_parameters()
        finally:
            handle.remove()

    def _load_optimizer_state(self) -> None:
        """MDM asks for an AdamW that a CUDA graph can hold, which no CPU has."""
        super()._load_optimizer_state()
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        for group in self.opt.param_groups if on_cpu else ():
            group["capturable"] = False

    def _keep_loss(self, diffusion: Any) -> None:
        """MDM's step hands its loss to nobody; from now on the last one [B] is kept."""
        own = diffusion.training_losses

        def training_losses(*positional: Any, **named: Any) -> dict[str, Tensor]:
            terms: dict[str, Tensor] = own(*positional, **named)
            self.loss = distributed.gathered(terms["loss"].detach())
            return terms

        diffusion.training_losses = training_losses

    def run_loop(self) -> None:
        super().run_loop()
        distributed.finish()

    def run_step(self, batch: Tensor, cond: dict[str, Any]) -> None:
        super().run_step(batch, cond)
        self.guard.check_step(self.number_of_step(), self.loss)

    def number_of_step(self) -> int:
        """The step that is being done, as MDM counts."""
        return int(self.step + getattr(self, "resume_step", 0))

    def save(self) -> None:
        self.guard.check_saved(resume.content_of(self), self.ckpt_file_name())
        if distributed.rank():
            return
        self.save_beside()
        folder = self.save_dir
        with resume.beside(folder) as partial:
            self.save_dir = partial
            try:
                super().save()
            finally:
                self.save_dir = folder
        self.guard.good = Path(folder) / self.ckpt_file_name()

    def save_beside(self) -> None:
        """Write what MDM does not save; nothing here."""

    def update_average_model(self) -> None:
        if not hasattr(self.args, "use_ema"):  # a fork with an average of its own
            super().update_average_model()
        elif self.args.use_ema:
            everything = self.args.eval_during_training or self.args.gen_during_training
            exact.move_average(self.model, self.model_avg, self.args.avg_model_beta, frozen=everything)


def forgive_text_encoder(_: Any, keys: Any) -> None:
    """Take the text encoder's weights off the list of those that a loaded state lacks."""
    keys.missing_keys[:] = resume.without_text_encoder(dict.fromkeys(keys.missing_keys))


class Paired(Host):
    """Exactly `last_step` updates; model{N}.pt holds N of them, and a resumed run equals an uninterrupted one.

    Every draw of a step has a stream of its own (`pairing`); what an evaluation draws leaves no trace.
    """

    data: Any
    model_avg: Any = None

    def __init__(
        self, args: argparse.Namespace, train_platform: Any, model: Any, diffusion: Any, data: Any, *rest: Any
    ) -> None:
        if any(thing is not None for thing in rest):
            raise HostError(
                "--paired: expected a training on one data set, which is drawn anew by the step, found a second one or "
                "a second model. Leave --paired out."
            )
        resume.prepare(args, bundled=True)
        loader, self.order = pairing.keyed_loader(data, args.seed)
        self.host_data = data
        path = args.resume_checkpoint
        self.resumed = resume.read(Path(path)) if path else None
        super().__init__(args, train_platform, model, diffusion, loader, *rest)
        self.last_step = min(args.num_steps, args.lr_anneal_steps or args.num_steps)
        self._resume_optimizer()
        self.saved_step, self.resumed = self.step, None

    def _load_and_sync_parameters(self) -> None:
        """Weights, average and step of the bundle."""
        if self.resumed is None:
            return
        load = vars(self.host).get("load_model_wo_clip") or import_module("utils.model_util").load_model_wo_clip
        load(self.model, self.resumed["model"])
        if self.model_avg is not None:
            load(self.model_avg, self.resumed["model_avg"])
        self.step = self.resumed["step"]

    def _resume_optimizer(self) -> None:
        """The optimizer and the generators; a weight once trained has a gradient, if only of zeros, ever after."""
        if self.resumed is None:
            return
        self.opt.load_state_dict(self.resumed["opt"])
        for weight in self.opt.state:
            weight.grad = torch.zeros_like(weight)
        pairing.restore_random_states(self.resumed["random"])
        print(f"resumed {self.args.resume_checkpoint} at step {self.step}")

    def run_loop(self) -> None:
        print(f"{self.last_step} updates, of which {self.step} are done")
        with tqdm(initial=self.step, total=self.last_step, unit="step") as bar:
            while self.step < self.last_step:
                epoch, done = divmod(self.step, len(self.data))
                self.order.begin(epoch, done)
                self.run_epoch(bar)
        if self.step != self.saved_step:
            self.checkpoint()
        distributed.finish()

    def run_epoch(self, bar: "tqdm[NoReturn]") -> None:
        """The rest of an epoch, or as much of it as there are steps."""
        for motion, condition in self.data:
            self.update(motion, condition["y"])
            bar.update()
            if self.step % self.log_interval == 0:
                self.report()
            if self.step % self.save_interval == 0:
                self.checkpoint()
            if self.step >= self.last_step:
                return

    def update(self, motion: Tensor, y: dict[str, Any]) -> None:
        """One update with a batch; the host's own count is one behind while it lasts, as in MDM."""
        pairing.seed_all(pairing.derive(self.args.seed, "goals", self.step))
        getattr(self, "cond_modifiers", lambda *_: None)(y, motion)  # MDM's goals, since February 2025
        self.diffusion.begin_step(self.step)
        self.run_step(motion.to(self.device), {"y": exact.on_device(y, self.device)})
        self.step += 1

    def report(self) -> None:
        """Hand the means since the last report to the platform."""
        means = vars(self.host)["logger"].get_current().dumpkvs()
        print(f"step {self.step}: loss {means['loss']:.5f}")
        for name, value in means.items():
            if name not in ("step", "samples") and "_q" not in name:
                self.train_platform.report_scalar(name=name, value=value, iteration=self.step, group_name="Loss")

    def checkpoint(self) -> None:
        """Save, then evaluate and generate where that is asked for."""
        self.save()
        self.saved_step = self.step
        with self.aside(), pairing.preserved():
            self.evaluate()
            getattr(self, "generate_during_training", lambda: None)()

    def number_of_step(self) -> int:
        """The updates with the one that is being done, which the host's own count does not have yet."""
        return int(self.step) + 1

    def save_beside(self) -> None:
        resume.write(self)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within, the models do not train, and the host sees its own data; afterwards all is as it was."""
        modules = [module for model in (self.model, self.model_avg) if model is not None for module in model.modules()]
        modes, data = [module.training for module in modules], self.data
        for module in modules:
            module.training = False
        self.data = self.host_data
        try:
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            self.data = data


# -- its log -----------------------------------------------------------------------------------------------------------

NO_LOSSES = ("samples", "grad_norm", "param_norm")
"""Columns of MDM's logger that are no losses; those with _q are losses by quarter of the schedule."""


def write_csv(folder: Path) -> None:
    """Let the logger write progress.csv into a folder, from when the host opens it: once in a process."""
    os.environ |= {"OPENAI_LOGDIR": str(folder.resolve()), "OPENAI_LOG_FORMAT": "csv"}


def gather_log(folder: Path, host: Path) -> None:
    """Read what MDM's logger wrote in `host` since the last time into progress.csv; later rows replace earlier ones."""
    place = host / "progress.csv"
    fresh = read_rows(place)
    if not fresh:
        return
    kept = [row for row in read_rows(folder / "progress.csv") if int(row["step"]) < int(fresh[0]["step"])]
    rows = [*kept, *({name: row[name] for name in row if name not in NO_LOSSES and "_q" not in name} for row in fresh)]
    columns = [name for name in rows[-1] if all(row.get(name) for row in rows)]
    write_rows(folder / "progress.csv", ["step", *(name for name in columns if name != "step")], rows)
    place.unlink()


def write_rows(place: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a progress.csv with these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(str(place), text.getvalue().encode())


def read_rows(place: Path) -> list[dict[str, str]]:
    """The rows of a progress.csv that have a step, none where there is no file."""
    if not place.is_file():
        return []
    text = place.read_text(encoding="utf-8", errors="replace").replace("\0", "")  # a power loss leaves zeros
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise HostError(f"{place}: expected rows of losses, found others ({error}). Remove the file.") from error
    return [row for row in rows if re.fullmatch("[0-9]{1,15}", row.get("step") or "")]
