"""What can be done with a finished run folder alone.

verify     its digests and metrics, checked against the predictions that it stores
rerun      the run repeated from what it says of itself, and compared sample by sample
pictures   the images behind its predictions, where their data is on this machine
groups     its tables by group, as DataComp prints them of FairFace and UTKFace
"""
