"""The paper's analyses of image encoders: spectra of their layers, and how alike two encoders are."""
