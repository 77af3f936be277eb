"""2D supervision for MDM, the human motion diffusion model. Importing the package imports nothing else."""

__version__ = "0.1.0"
