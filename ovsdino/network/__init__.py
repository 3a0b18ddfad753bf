"""The OVS-DINO network: backbone, structure encoder and decoder, head, text tower."""
