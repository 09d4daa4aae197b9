"""Lossless codecs of images by the bounds of models."""
