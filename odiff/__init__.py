"""odiff: self-configuring diffusion pretraining, segmentation and diagnosis for joint MRI."""

__version__ = "0.1.0"
