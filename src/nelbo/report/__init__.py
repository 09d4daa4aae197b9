"""Pictures and tables."""

from nelbo.report.pictures import beside, grid, picture, save_images

__all__ = ["beside", "grid", "picture", "save_images"]
