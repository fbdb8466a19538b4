"""What a run will need of memory and disks, told before its model is loaded."""
