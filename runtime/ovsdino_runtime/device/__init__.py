"""From a photo to labels on a GPU: the same stages on streams."""
