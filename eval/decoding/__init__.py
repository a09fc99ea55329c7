"""Images decoded in other processes, in order, and their way from the decoders' memory to the device."""
