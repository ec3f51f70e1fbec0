"""One YAML file per experiment, found by name: `pivl-distill teach --config quick`."""
