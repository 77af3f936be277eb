"""Where a run reports to."""


class TrainPlatform:
    """Reports nothing; a subclass sends what it gets to a service."""

    def __init__(self, save_dir, *args, **kwargs):
        self.save_dir = save_dir

    def report_args(self, args, name):
        pass

    def report_scalar(self, name, value, iteration, group_name=None):
        pass

    def report_media(self, title, series, iteration, local_path):
        pass

    def close(self):
        pass


class NoPlatform(TrainPlatform):
    """The default."""
