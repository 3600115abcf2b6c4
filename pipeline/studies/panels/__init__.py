"""Panels of the figures of studies, where they are many or shared."""
