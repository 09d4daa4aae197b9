"""Pictures and tables for people."""

from nelbo.report.pictures import beside, grid, picture, save_images

__all__ = ["beside", "grid", "picture", "save_images"]
