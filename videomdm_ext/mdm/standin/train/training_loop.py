"""The training loop: exactly num_steps updates, and a resumed run equals an uninterrupted one bit for bit."""

import copy
import hashlib
import json
import time
from itertools import islice
from pathlib import Path

import torch
from diffusion.resample import UniformSampler
from torch.optim import AdamW
from tqdm import tqdm
from utils import dist_util
from utils.model_util import load_model_wo_clip

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import distributed, pairing, resume
from videomdm_ext.mdm.loop import read_rows, write_rows
from videomdm_ext.mdm.speed import exact


class Progress:
    """Adds up [N] terms on their device and writes one row per interval; terms may come and go."""

    def __init__(self, path):
        self.path = Path(path)
        self.rows, self.sums, self.counts = [], {}, {}

    def add(self, terms):
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().mean().double()
            self.counts[name] = self.counts.get(name, 0) + 1

    def row(self, step):
        """Write the row of this step. -> the means by name"""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        self.rows.append({"step": step, **means})
        write_rows(self.path, list({name: None for row in self.rows for name in row}), self.rows)
        return means

    def state(self):
        return {"sums": {name: float(value) for name, value in self.sums.items()}, "counts": dict(self.counts)}

    def restore(self, state, step):
        """Go on after `step`: forget later rows, take up the sums of the open interval."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.rows = [row for row in read_rows(self.path) if int(row["step"]) <= step]


class TrainLoop:
    """AdamW on all weights but the text encoder's. `step` counts the updates done; model{step}.pt comes after them."""

    def __init__(self, args, train_platform, model, diffusion, data):
        if len(data) == 0:
            raise HostError(f"{len(data.dataset)} clips do not fill a batch of {args.batch_size}: lower --batch_size.")
        self.guard = resume.Guard(args, model)
        self.args, self.train_platform, self.data = args, train_platform, distributed.shared(data, args.seed)
        self.model, self.diffusion = model, diffusion
        self.save_dir = Path(args.save_dir)
        self.device = dist_util.dev()
        self.step = self.saved_step = 0
        self.last_step = min(args.num_steps, args.lr_anneal_steps or args.num_steps)
        encoder = getattr(model, "clip_model", None)  # frozen, and shared with the average
        self.model_avg = copy.deepcopy(model, {id(encoder): encoder}) if args.use_ema else None
        self.parameters = [p for p in model.parameters_wo_clip() if p.requires_grad]
        self.opt = AdamW(self.parameters, lr=args.lr, weight_decay=args.weight_decay, betas=(0.9, args.adam_beta2))
        self.schedule_sampler = UniformSampler(diffusion)
        self.progress = Progress(self.save_dir / "progress.csv")
        self.random_states = None
        checkpoint = resume.start_of(args)
        if checkpoint:
            self.resume(checkpoint)
        distributed.share(self)
        pairing.spread(args, self.step)

    def resume(self, path):
        """Take up weights, average, optimizer, log and random states of a checkpoint."""
        if not path.is_file():
            raise HostError(f"{path}: not found. --resume_checkpoint must name a model*.pt file.")
        named = resume.CHECKPOINT.fullmatch(path.name)
        self.step = self.saved_step = int(named[1]) if named else 0
        saved = dist_util.load_state_dict(path, map_location=self.device)
        weights = saved.get("model", saved)
        load_model_wo_clip(self.model, weights)
        if self.model_avg is not None:
            load_model_wo_clip(self.model_avg, saved.get("model_avg", weights))
        bundle_path = resume.optimizer_of(path)
        bundle = dist_util.load_state_dict(bundle_path, map_location="cpu") if bundle_path.is_file() else {}
        if "random" not in bundle:
            print(f"{path}: no optimizer state of this trainer beside it; the optimizer starts afresh")
            return
        decay = self.args.weight_decay
        self.opt.load_state_dict(bundle["opt"])
        for group in self.opt.param_groups:
            group["weight_decay"] = decay
        self.progress.restore(bundle["progress"], self.step)
        self.random_states = bundle["random"]
        print(f"resumed {path} at step {self.step}")

    def run_loop(self):
        self.model.train()
        shown = time.monotonic()
        bar = tqdm(self.batches(), initial=self.step, total=self.last_step, mininterval=1, disable=None, unit="step")
        for motion, cond in bar:
            y = exact.on_device(cond["y"], self.device)
            losses = self.run_step(motion.to(self.device), {**cond, "y": y})
            if not bar.disable and time.monotonic() > shown + 1:
                shown = time.monotonic()
                bar.set_postfix(loss=f"{losses['loss'].mean().item():.4f}", refresh=False)
            if self.step % self.args.log_interval == 0:
                self.log()
            if self.step % self.args.save_interval == 0:
                self.save()
        if self.step != self.saved_step:
            self.save()
        distributed.finish()

    def batches(self):
        """Batches of the epochs, from the one after `step` to the last step."""
        while self.step < self.last_step:
            epoch, done = divmod(self.step, len(self.data))
            if done == 0:
                self.restore_random_states()
            self.data.generator.manual_seed(epoch_seed(self.args.seed, epoch))
            if hasattr(self.data.dataset, "set_epoch"):
                self.data.dataset.set_epoch(epoch)
            iterator = iter(self.data)
            for _ in islice(iterator, done):
                pass  # a resumed run passes over what its checkpoint has seen
            self.restore_random_states()
            yield from islice(iterator, self.last_step - self.step)

    def restore_random_states(self):
        """Once after a resumption: the global generators as they were at the checkpoint."""
        if self.random_states and distributed.size() == 1:
            pairing.restore_random_states(self.random_states)
            self.random_states = None

    def run_step(self, motion, cond):
        """One update. motion [B, J, F, T] -> the loss terms, [B] each"""
        self.set_learning_rate()
        self.opt.zero_grad(set_to_none=True)
        if hasattr(self.diffusion, "begin_step"):
            self.diffusion.begin_step(self.step)
        t, weights = self.schedule_sampler.sample(motion.shape[0], self.device)
        losses = self.diffusion.training_losses(self.ddp_model, motion, t, model_kwargs=cond, dataset=self.data.dataset)
        (losses["loss"] * weights).mean().backward()
        if self.args.gradient_clip > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.args.gradient_clip)
        self.opt.step()
        self.update_average_model()
        self.step += 1
        losses = distributed.gathered_terms(losses)
        self.guard.check_step(self.step, losses["loss"])
        self.progress.add(losses)
        return losses

    def set_learning_rate(self):
        """Linear decay, one step behind the count as in MDM; constant without --lr_anneal_steps."""
        anneal = self.args.lr_anneal_steps
        fraction = max(self.step - 1, 0) / anneal if anneal else 0.0
        for group in self.opt.param_groups:
            group["lr"] = self.args.lr * (1 - fraction)

    def update_average_model(self):
        if self.model_avg is not None:
            exact.move_average(self.model, self.model_avg, self.args.avg_model_beta, frozen=False)

    def log(self):
        means = self.progress.row(self.step)
        for name, value in means.items():
            self.train_platform.report_scalar(name=name, value=value, iteration=self.step, group_name="Loss")
        tqdm.write(f"step[{self.step}]: loss[{means['loss']:0.5f}]")

    def ckpt_file_name(self):
        return f"model{self.step:09d}.pt"

    def save(self):
        """Write opt*.pt, then model*.pt: whoever finds the model finds the optimizer too."""
        bundle = {
            "opt": self.opt.state_dict(),
            "random": pairing.random_states(),
            "step": self.step,
            "progress": self.progress.state(),
            "args": json.dumps(resume.fixed(self.args)),
        }
        weights = resume.without_text_encoder(self.model.state_dict())
        if self.model_avg is not None:
            average = resume.without_text_encoder(self.model_avg.state_dict())
            weights = {"model": weights, "model_avg": average}
        place, self.saved_step = self.save_dir / self.ckpt_file_name(), self.step
        self.guard.check_saved({"weights": weights, "opt": bundle["opt"]}, place.name)
        if distributed.rank():
            return
        with resume.beside(self.save_dir) as partial:
            torch.save(bundle, Path(partial) / f"opt{self.step:09d}.pt")
            torch.save(weights, Path(partial) / place.name)
        self.guard.good = place


def epoch_seed(seed, epoch):
    """The seed of an epoch's order: a stable hash of both numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:7], "big")
