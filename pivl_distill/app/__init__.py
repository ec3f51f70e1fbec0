"""What the commands do: loading targets, reports, benchmarks and charts."""
