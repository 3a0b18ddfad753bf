"""OVS-DINO as the paper draws it: backbone, structure encoder and decoder, head, text tower."""
