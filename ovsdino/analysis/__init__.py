"""The paper's analyses of image encoders: spectra of layers, and CKA between encoders."""
