"""Formats of other libraries."""

from nelbo.interchange.pipelines import Pipeline, read_pipeline, write_pipeline

__all__ = ["Pipeline", "read_pipeline", "write_pipeline"]
