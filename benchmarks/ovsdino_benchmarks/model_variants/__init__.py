"""The forms in which a model is measured: bundle, torch network, zero-shot."""
