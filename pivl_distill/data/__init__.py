"""Re-identification data: records, datasets on disk, parsing maps, sampling and augmentation."""
