"""Runs that are shared out: over the jobs of a Slurm array, over processes of one's own, over time.

local       `runtime.devices=N`: a run over several devices of this machine, a process each
shares      which tasks, or which part of a large one, a process of `--share I/N` takes
checkpoints several checkpoints of one architecture over one stream of images; checkpoint_files finds them
submit      `clipeval submit`: a Slurm array, submitted and left; combinations, cost
job         what one job of that array does; job_notes, which job was given what
status      `clipeval status`: which tasks are done, running, failed or missing
sweep       `clipeval run -m`: Hydra's own sweeps
watch       `clipeval watch`: each checkpoint of a training run as it appears
"""
