"""Archives read in place, by offset, over any store; strict, and bounded whatever their bytes say."""
