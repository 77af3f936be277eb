"""MDM's training loop with whole checkpoints, and, with --paired, with exact steps and own random streams."""


def attach() -> None:
    """Arrange for train.training_loop to hand out our subclass of its TrainLoop. Repeating it is harmless."""
