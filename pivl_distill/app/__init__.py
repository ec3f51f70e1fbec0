"""What the commands do. `pivl_distill.cli` parses their options and calls these modules."""
