"""Errors a person can fix: each message names the file or option, what was expected, what was found, what to do."""


class VideoMDMError(Exception):
    """Base of all expected errors; the command line prints the message and exits with status 1."""


class ConfigError(VideoMDMError):
    """An option or configuration file holds a value that cannot be used."""


class DatasetError(VideoMDMError):
    """A clip, a dataset folder or a source file is not what its card or format says."""


class HostError(VideoMDMError):
    """The MDM checkout, or a checkpoint made with it, does not fit."""


class PluginError(VideoMDMError):
    """A plugin cannot be loaded, or two plugins claim the same name."""
