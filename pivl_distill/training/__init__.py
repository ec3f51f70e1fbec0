"""Stage 2: the training loop of teacher and student, its losses, optimizer and schedules."""
