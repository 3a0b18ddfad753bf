"""A page to try a model on: a photo, words as chips, and what the model sees. Gradio is used here alone."""
