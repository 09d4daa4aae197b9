"""Networks."""

from nelbo.nn.unet import UNet, default_widths

__all__ = ["UNet", "default_widths"]
