"""What to say when a disk is full: which folder, and what to do."""

import shutil

from backend.settings import Settings


def no_space(settings: Settings) -> str:
    """Return in words which of our folders has the least space left, and how the work goes on."""
    folders = [folder for folder in (settings.home, settings.artifacts_path) if folder.is_dir()]
    free = {folder: shutil.disk_usage(folder).free for folder in folders}
    fullest = min(folders, key=lambda folder: free[folder])
    return (
        f"No space is left on the disk of {fullest} ({free[fullest] / 1e6:.1f} MB free). What was stored before is "
        "whole. Free some space there, then resume: the run goes on from what is stored."
    )
