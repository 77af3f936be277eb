"""Where a run reports to."""


class NoPlatform:
    """Nowhere."""

    def __init__(self, save_dir):
        pass

    def report_args(self, args, name):
        pass

    def report_scalar(self, name, value, iteration, group_name=None):
        pass

    def close(self):
        pass
