"""Pictures and tables for people."""

from nelbo.report.pictures import beside, grid, picture, save_images
from nelbo.report.tables import score_table, score_title

__all__ = ["beside", "grid", "picture", "save_images", "score_table", "score_title"]
