"""Networks."""

from nelbo.nn.unet import UNet, UNetOptions, default_widths

__all__ = ["UNet", "UNetOptions", "default_widths"]
