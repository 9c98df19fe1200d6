"""The commands of `mdistiller-dfpt`, one file each; `tools/` starts the same."""
