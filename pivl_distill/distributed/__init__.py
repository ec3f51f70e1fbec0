"""Several processes in one run: process group, collectives and synchronised batch norm."""
