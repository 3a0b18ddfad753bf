"""The forms in which a model is measured: bundle, torch, zero-shot."""
