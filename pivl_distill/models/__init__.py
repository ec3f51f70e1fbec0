"""Networks in training: the ReID shell, the fusion-alignment head, and bare embedding models."""
