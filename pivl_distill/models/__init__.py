"""Networks: training interface, fusion-alignment head, and embedding models without heads."""
