"""What each command takes and says; each imports its stage inside itself, so --help is instant."""
