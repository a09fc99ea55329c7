"""How an evaluation runs: a config becomes a run folder.

evaluation  opens a config, plans it, runs it, writes records               the way in
plan        opens every task: what is to be done, and why
runner      one model over one image stream; scores a task once its embeddings are there
stream      decoded images through the encoder, in order; decode has them decoded in other processes
store       embeddings, by content, on the disk
verify      what stands in a run folder, checked or run again; trust says whose classes may be called for that
"""
