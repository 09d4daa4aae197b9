"""Pictures and tables for people."""

from nelbo.report.pictures import beside, grid, picture, save_images
from nelbo.report.tables import score_table

__all__ = ["beside", "grid", "picture", "save_images", "score_table"]
